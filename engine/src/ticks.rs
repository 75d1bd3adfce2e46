//! A clock for what may wait a moment, to leave together with what comes behind it.
//!
//! A timer for each would cost what is saved: to change the next moment at which the runtime wakes
//! up is a system call.
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The clock stops when nobody has asked for so many ticks: to start it costs a system call.
const IDLE_TICKS: u32 = 20;

pub struct Ticks {
    period: Duration,
    tick: Arc<Notify>,
    wanted: Notify,
}

/// Ready at the next tick.
pub type Tick = Pin<Box<OwnedNotified>>;

impl Ticks {
    pub fn new(period: Duration) -> Arc<Ticks> {
        Arc::new(Ticks {
            period,
            tick: Arc::default(),
            wanted: Notify::new(),
        })
    }

    /// At most one period from now, a little later when the clock has to start.
    pub fn next(&self) -> Tick {
        self.wanted.notify_one();
        Box::pin(self.tick.clone().notified_owned())
    }

    /// Ticks while somebody waits, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            let mut idle = 0;
            while idle < IDLE_TICKS {
                tokio::time::sleep(self.period).await;
                self.tick.notify_waiters();
                let wanted = std::pin::pin!(self.wanted.notified()).enable();
                idle = if wanted { 0 } else { idle + 1 };
            }
        }
    }
}
