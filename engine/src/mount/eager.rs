//! Whether to look for the next request for a while instead of sleeping. Pure.
//!
//! To answer a request takes a few microseconds. To be woken up for it takes several times as long
//! where the core of whoever asks is another one, and this one halts when it is idle; nearly
//! nothing where both share a core. Who goes through many small files asks again a few microseconds
//! after each answer. So it is tried out: some waits asleep, some awake, and what was quicker for
//! the many that follow. Where requests come seldom it sleeps. Who asks has to wake up as well, for
//! each answer: while this thread looks the other cores are kept from halting, too (`cores.rs`).
use std::time::Duration;

/// So long it looks before it sleeps.
pub const LOOK: Duration = Duration::from_micros(100);
/// Waits of a trial.
const TRIED: u32 = 32;
/// Waits until the next trial, where it looks.
const KEPT: u32 = 8_192;
/// And where it sleeps: soon, as it may have slept well only because both shared a core.
const KEPT_ASLEEP: u32 = 1_024;
/// Above this mean of a trial, looking would mostly be in vain.
const SELDOM: Duration = Duration::from_micros(200);
/// What a longer wait counts for.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// It looks no more where so many waits of those until the next trial were in vain.
const VAIN_MAX: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    TriesSleep,
    /// The other trial took this sum.
    TriesLook(Duration),
    Sleeps,
    Looks,
}

pub struct Eager {
    phase: Phase,
    waits: u32,
    sum: Duration,
    vain: u32,
}

impl Default for Eager {
    fn default() -> Eager {
        Eager::in_phase(Phase::TriesSleep)
    }
}

impl Eager {
    /// One that looks from the start.
    #[cfg(test)]
    pub fn looking() -> Eager {
        Eager::in_phase(Phase::Looks)
    }

    fn in_phase(phase: Phase) -> Eager {
        Eager {
            phase,
            waits: 0,
            sum: Duration::ZERO,
            vain: 0,
        }
    }

    /// What to do in the next wait.
    pub fn looks(&self) -> bool {
        matches!(self.phase, Phase::TriesLook(_) | Phase::Looks)
    }

    /// A wait has ended, with a request.
    pub fn waited(&mut self, time: Duration) {
        self.waits += 1;
        self.sum += time.min(WAIT_MAX);
        self.vain += u32::from(time > LOOK);
        let next = match self.phase {
            Phase::TriesSleep if self.waits == TRIED => match self.sum / TRIED {
                mean if mean > SELDOM => Phase::TriesSleep,
                _ => Phase::TriesLook(self.sum),
            },
            // A quarter has to be gained: it takes the core from others, too.
            Phase::TriesLook(asleep) if self.waits == TRIED => match 4 * self.sum < 3 * asleep {
                true => Phase::Looks,
                false => Phase::Sleeps,
            },
            Phase::Looks if self.vain > VAIN_MAX => Phase::TriesSleep,
            Phase::Looks if self.waits == KEPT => Phase::TriesSleep,
            Phase::Sleeps if self.waits == KEPT_ASLEEP => Phase::TriesSleep,
            _ => return,
        };
        *self = Eager::in_phase(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// How many of so many waits it looked, where they take so long.
    fn looked(eager: &mut Eager, waits: u32, asleep: Duration, awake: Duration) -> u32 {
        (0..waits)
            .map(|_| {
                let looks = eager.looks();
                eager.waited(if looks { awake } else { asleep });
                u32::from(looks)
            })
            .sum()
    }

    #[test]
    fn it_does_what_was_quicker_and_tries_again() {
        let mut eager = Eager::default();
        assert_eq!(looked(&mut eager, TRIED, us(45), us(10)), 0);
        assert_eq!(
            looked(&mut eager, TRIED + KEPT, us(45), us(10)),
            TRIED + KEPT
        );
        // Now another wants the core.
        assert_eq!(looked(&mut eager, TRIED, us(14), us(30)), 0);
        let kept = TRIED + KEPT_ASLEEP;
        assert_eq!(looked(&mut eager, kept, us(14), us(30)), TRIED);
        // And goes.
        assert_eq!(looked(&mut eager, TRIED, us(45), us(10)), 0);
        assert_eq!(
            looked(&mut eager, TRIED + KEPT, us(45), us(10)),
            TRIED + KEPT
        );
    }

    #[test]
    fn a_little_quicker_is_not_enough() {
        let mut eager = Eager::default();
        let asleep = 2 * TRIED + KEPT_ASLEEP;
        assert_eq!(looked(&mut eager, asleep, us(40), us(30)), TRIED);
        let awake = TRIED + KEPT;
        assert_eq!(looked(&mut eager, TRIED + awake, us(40), us(29)), awake);
    }

    #[test]
    fn where_requests_come_seldom_it_never_looks() {
        let mut eager = Eager::default();
        assert_eq!(looked(&mut eager, 3 * KEPT, us(201), us(1)), 0);
        // One that comes late among many that do not is none that comes seldom.
        for n in 0..TRIED {
            eager.waited(if n == 7 {
                Duration::from_secs(3)
            } else {
                us(45)
            });
        }
        assert!(eager.looks());
    }

    #[test]
    fn it_stops_when_it_looks_in_vain() {
        let mut eager = Eager::default();
        looked(&mut eager, 2 * TRIED + 100, us(45), us(10));
        assert!(eager.looks());
        let late = Duration::from_millis(50);
        assert_eq!(looked(&mut eager, 1_000, late, late), VAIN_MAX + 1);
    }
}
