//! The flushes of the log: who shares one, and how late this node's disk is.
//!
//! What counts is not how long a flush takes: where all disks are slow, nobody else would do
//! better. It is how long an entry is committed, so that a majority has it on disk, before it is on
//! this one.
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So many late flushes in a row are no accident.
const LATE_COUNT_MIN: u32 = 5;

/// One is under way and another behind it, so that the disk never waits for us.
const UNDER_WAY_MAX: usize = 2;

/// What the disk is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A flush is late when its entries were committed so long before its end.
    pub late: Duration,
    /// A disk is slow when for so long every flush was late.
    pub late_for: Duration,
    /// It does not answer when a flush whose entries are committed takes so much longer.
    pub stall: Duration,
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// So many flushes in a row were late, the last by so much.
    Slow(u32, Duration),
    /// A flush has been under way for so long.
    Stalled(Duration),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Slow(count, by) => write!(
                f,
                "its disk is slow: {count} writes of the log in a row were there {} ms or so after \
                 a majority of the others had them",
                by.as_millis()
            ),
            Trouble::Stalled(since) => write!(
                f,
                "its disk does not answer: a write of the log that a majority of the others has \
                 on disk waits for {:.1} s",
                since.as_secs_f64()
            ),
        }
    }
}

struct Flush {
    begun: Instant,
    /// Of its entries; 0 when it has none.
    last_index: u64,
    committed: Option<Instant>,
}

struct Late {
    since: Instant,
    count: u32,
    by: Duration,
}

#[derive(Default)]
struct State {
    /// Asked for, in the order in which they end. bounded: by the appends that Raft has under way
    waiting: VecDeque<Flush>,
    late: Option<Late>,
}

/// `T`: who is told of the end of a flush.
struct Turns<T> {
    under_way: usize,
    /// Who shares the next one. bounded: as above
    next: Vec<T>,
}

/// See the module's text.
pub struct Flushes<T> {
    state: Mutex<State>,
    turns: Mutex<Turns<T>>,
    ended: Notify,
}

impl<T> Default for Flushes<T> {
    fn default() -> Flushes<T> {
        Flushes {
            state: Mutex::default(),
            turns: Mutex::new(Turns {
                under_way: 0,
                next: Vec::new(),
            }),
            ended: Notify::new(),
        }
    }
}

/// Whose turn it is to flush.
pub enum Admitted<T> {
    /// The caller's, for these; it calls `leave` at the end.
    Now(Vec<T>),
    /// The caller's, as soon as there is `room`.
    First,
    /// That of another who waits for room.
    Shared,
}

impl<T> Flushes<T> {
    /// Takes in one who wants to be told.
    pub fn admit(&self, told: T) -> Admitted<T> {
        let mut turns = self.turns.lock();
        if turns.under_way < UNDER_WAY_MAX && turns.next.is_empty() {
            turns.under_way += 1;
            return Admitted::Now(vec![told]);
        }
        turns.next.push(told);
        match turns.next.len() {
            1 => Admitted::First,
            _ => Admitted::Shared,
        }
    }

    /// Waits until one more may be under way. The caller then flushes for those whom `take` gives.
    pub async fn room(&self) {
        loop {
            {
                let mut turns = self.turns.lock();
                if turns.under_way < UNDER_WAY_MAX {
                    turns.under_way += 1;
                    return;
                }
            }
            self.ended.notified().await;
        }
    }

    /// All who wait. Until this is called nobody overtakes them.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.turns.lock().next)
    }

    /// A flush has ended.
    pub fn leave(&self) {
        self.turns.lock().under_way -= 1;
        self.ended.notify_one();
    }

    /// A flush is asked for, behind all others.
    pub fn begin(&self, now: Instant, last_index: u64) {
        self.state.lock().waiting.push_back(Flush {
            begun: now,
            last_index,
            committed: None,
        });
    }

    /// What reaches up to `index` is safe with a majority.
    pub fn committed(&self, now: Instant, index: u64) {
        let mut state = self.state.lock();
        let safe = |f: &&mut Flush| f.last_index <= index;
        for flush in state.waiting.iter_mut().take_while(safe) {
            if flush.last_index > 0 {
                flush.committed.get_or_insert(now);
            }
        }
    }

    /// The first flush has ended.
    pub fn end(&self, now: Instant, bounds: &Bounds) {
        let mut state = self.state.lock();
        let Some(flush) = state.waiting.pop_front() else {
            return;
        };
        if flush.last_index == 0 {
            return; // nobody else has it, so it says nothing
        }
        let by = flush.committed.map_or(Duration::ZERO, |at| now - at);
        if by < bounds.late {
            state.late = None;
            return;
        }
        let late = state.late.get_or_insert(Late {
            since: flush.begun,
            count: 0,
            by,
        });
        late.count += 1;
        late.by = by;
    }

    /// What is wrong at this moment.
    pub fn trouble(&self, now: Instant, bounds: &Bounds) -> Option<Trouble> {
        let state = self.state.lock();
        let first = state.waiting.front();
        if let Some(at) = first.and_then(|f| f.committed)
            && now - at >= bounds.stall
        {
            return first.map(|f| Trouble::Stalled(now - f.begun));
        }
        let late = state.late.as_ref()?;
        let slow = late.count >= LATE_COUNT_MIN && now - late.since >= bounds.late_for;
        slow.then_some(Trouble::Slow(late.count, late.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        late: Duration::from_millis(25),
        late_for: Duration::from_secs(2),
        stall: Duration::from_secs(1),
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Flushes one after the other, each committed and ended so long after its begin.
    fn run(committed: u64, ended: u64, times: u64) -> Option<Trouble> {
        let (flushes, mut now) = (Flushes::<()>::default(), Instant::now());
        for index in 1..=times {
            flushes.begin(now, index);
            if committed < ended {
                flushes.committed(now + ms(committed), index);
            }
            now += ms(ended);
            flushes.end(now, &BOUNDS);
        }
        flushes.trouble(now, &BOUNDS)
    }

    #[test]
    fn a_disk_is_slow_when_the_others_are_quicker_for_long() {
        assert_eq!(run(2, 52, 100), Some(Trouble::Slow(100, ms(50))));
        assert_eq!(run(2, 52, 30), None, "not for long");
        assert_eq!(run(100, 3_000, 4), None, "too few");
        assert_eq!(run(2, 12, 1_000), None, "hardly slower");
    }

    #[tokio::test]
    async fn what_comes_while_two_are_under_way_shares_the_next() {
        let flushes = Flushes::default();
        for told in [1, 2] {
            assert!(matches!(flushes.admit(told), Admitted::Now(all) if all == [told]));
        }
        assert!(matches!(flushes.admit(3), Admitted::First));
        assert!(matches!(flushes.admit(4), Admitted::Shared));
        flushes.leave();
        assert!(
            matches!(flushes.admit(5), Admitted::Shared),
            "nobody overtakes"
        );
        flushes.room().await;
        assert!(matches!(flushes.admit(6), Admitted::Shared));
        assert_eq!(flushes.take(), [3, 4, 5, 6]);
        assert!(matches!(flushes.admit(7), Admitted::First));
        let room = flushes.room();
        tokio::pin!(room);
        assert!(futures::poll!(&mut room).is_pending());
        flushes.leave();
        room.await;
        assert_eq!(flushes.take(), [7]);
    }

    #[test]
    fn where_all_disks_are_slow_no_disk_is() {
        assert_eq!(
            run(3_000, 3_000, 100),
            None,
            "nothing is committed without it"
        );
        assert_eq!(run(2_990, 3_000, 100), None);
    }

    #[test]
    fn one_flush_in_time_takes_the_blame_away() {
        let (flushes, mut now) = (Flushes::<()>::default(), Instant::now());
        for index in 1..=100 {
            flushes.begin(now, index);
            let late = index != 99;
            flushes.committed(now + ms(if late { 0 } else { 60 }), index);
            now += ms(60);
            flushes.end(now, &BOUNDS);
        }
        assert_eq!(flushes.trouble(now, &BOUNDS), None);
    }

    #[test]
    fn a_disk_that_does_not_answer_is_noticed_while_it_does_not() {
        let (flushes, now) = (Flushes::<()>::default(), Instant::now());
        flushes.begin(now, 0);
        assert_eq!(flushes.trouble(now + ms(9_000), &BOUNDS), None, "a vote");
        flushes.end(now, &BOUNDS);
        flushes.begin(now, 7);
        assert_eq!(
            flushes.trouble(now + ms(9_000), &BOUNDS),
            None,
            "nobody has it"
        );
        flushes.begin(now + ms(10), 9);
        flushes.committed(now + ms(500), 8);
        flushes.committed(now + ms(800), 8);
        assert_eq!(flushes.trouble(now + ms(1_499), &BOUNDS), None);
        let stalled = Some(Trouble::Stalled(ms(1_500)));
        assert_eq!(flushes.trouble(now + ms(1_500), &BOUNDS), stalled);
        flushes.end(now + ms(1_600), &BOUNDS);
        assert_eq!(
            flushes.trouble(now + ms(9_000), &BOUNDS),
            None,
            "the next is nowhere safe"
        );
    }
}
