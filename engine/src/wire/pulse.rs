//! Whether the client at the other end still lives and reads.
use super::limits::{PING_AFTER, PING_WAIT, STALL};
use h2::{Ping, PingPong};
use std::task::{Context, Poll};
use std::time::Instant;

/// The clock of the runtime, which tests can stop.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub struct Pulse {
    pings: Option<PingPong>,
    heard: Instant,
    /// When the ping was sent that has no answer yet.
    pinged: Option<Instant>,
    /// Bytes of answers that had left, and when that figure last changed or none were waiting.
    progress: u64,
    moved: Instant,
}

impl Pulse {
    pub fn new(pings: Option<PingPong>, now: Instant) -> Pulse {
        Pulse {
            pings,
            heard: now,
            pinged: None,
            progress: 0,
            moved: now,
        }
    }

    /// Looks for the answer to a ping.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        if self.pinged.is_some()
            && let Some(pings) = &mut self.pings
            && let Poll::Ready(Ok(_)) = pings.poll_pong(cx)
        {
            self.pinged = None;
            self.heard = now();
        }
    }

    /// Once a tick. False: the client is gone, or has not read its answers for too long.
    /// `flow`: bytes of answers that wait, bytes that have left.
    pub fn tick(&mut self, now: Instant, last_call: Instant, flow: (u64, u64)) -> bool {
        let (waiting, progress) = flow;
        if waiting == 0 || progress != self.progress {
            self.progress = progress;
            self.moved = now;
        }
        self.heard = self.heard.max(last_call);
        if let Some(pinged) = self.pinged {
            return now - pinged < PING_WAIT && now - self.moved < STALL;
        }
        if now.saturating_duration_since(self.heard) >= PING_AFTER
            && let Some(pings) = &mut self.pings
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.pinged = Some(now);
        }
        now - self.moved < STALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::limits::TICK;

    #[test]
    fn a_client_that_takes_nothing_of_its_answers_is_given_up() {
        let start = Instant::now();
        let mut pulse = Pulse::new(None, start);
        let mut now = start;
        while now - start < 3 * STALL {
            now += TICK;
            assert!(pulse.tick(now, start, (0, 0)), "nothing waits");
        }
        let slow = now;
        let mut left = 0;
        while now - slow < 3 * STALL {
            now += TICK;
            left += 1;
            assert!(pulse.tick(now, start, (1_000, left)), "slow, but it reads");
        }
        let still = now;
        loop {
            now += TICK;
            if !pulse.tick(now, start, (1_000, left)) {
                break;
            }
            assert!(now - still < STALL, "it does not read");
        }
        assert!(now - still >= STALL);
    }
}
