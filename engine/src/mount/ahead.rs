//! Whether a file that is looked up will be opened next. Pure.
//!
//! Who reads files by name looks each up and opens it then. While it takes note of the name, the
//! file can be made ready: `ready.rs`. Who only looks, as `stat` does, must not pay for that.
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// So many, one behind the other, were opened next: so the following one will be.
const RIGHT_MIN: u32 = 4;
/// More of them are forgotten no sooner.
const RIGHT_MAX: u32 = 16;

#[derive(Default)]
pub struct Ahead {
    /// The file that was looked up last and was not opened yet; 0 = none.
    looked_up: AtomicU64,
    right: AtomicU32,
}

impl Ahead {
    /// A file was looked up: whether it will be opened next.
    pub fn looked_up(&self, id: u64) -> bool {
        let mut right = self.right.load(Relaxed);
        if self.looked_up.swap(id, Relaxed) != 0 {
            right /= 2; // The one before was not.
            self.right.store(right, Relaxed);
        }
        right >= RIGHT_MIN
    }

    pub fn opened(&self, id: u64) {
        let right = self.right.load(Relaxed);
        if self.looked_up.load(Relaxed) == id {
            self.looked_up.store(0, Relaxed);
            self.right.store((right + 1).min(RIGHT_MAX), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_what_it_looks_up_will_do_so_again() {
        let ahead = Ahead::default();
        for id in 1..=u64::from(RIGHT_MIN) {
            assert!(!ahead.looked_up(id));
            ahead.opened(id);
        }
        for id in 10..100 {
            assert!(ahead.looked_up(id));
            ahead.opened(id);
            ahead.opened(id + 1_000); // One whose name is known.
        }
        // Now others are only looked up.
        let opened = (100..200).filter(|id| ahead.looked_up(*id)).count();
        assert_eq!(opened, 3, "16, 8 and 4 were right");
    }

    #[test]
    fn of_two_that_take_turns_nothing_is_known() {
        let ahead = Ahead::default();
        for id in (1..100).step_by(2) {
            assert!(!ahead.looked_up(id));
            assert!(!ahead.looked_up(id + 1));
            ahead.opened(id);
            ahead.opened(id + 1);
        }
    }
}
