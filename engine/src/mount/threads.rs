//! Named threads that can be told to stop and are never waited for without end.
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    running: Vec<&'static str>,
    /// Dropped to stop: the other end then becomes readable.
    signal: Option<OwnedFd>,
    /// What the threads watch.
    stop: Option<Arc<OwnedFd>>,
    stopped: bool,
}

#[derive(Default)]
pub struct Threads(Arc<(Mutex<State>, Condvar)>);

impl Threads {
    /// Runs `body` in a thread of its own, with a descriptor that becomes readable to stop it. A
    /// panic ends the process: a mount without its thread would hang its readers, while a process
    /// that died is replaced.
    pub fn start(
        &self,
        name: &'static str,
        body: impl FnOnce(BorrowedFd<'_>) + Send + 'static,
    ) -> io::Result<()> {
        let stop = {
            let mut state = self.0.0.lock();
            let stop = match state.stop.clone() {
                Some(stop) => stop,
                None => {
                    let (reader, writer) = io::pipe()?;
                    state.signal = Some(writer.into());
                    state.stop.insert(Arc::new(reader.into())).clone()
                }
            };
            state.running.push(name);
            stop
        };
        let shared = self.0.clone();
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| body(stop.as_fd()))).is_err() {
                    std::process::abort();
                }
                finished(&shared, name);
            });
        if let Err(error) = spawned {
            finished(&self.0, name);
            return Err(error);
        }
        Ok(())
    }

    pub fn running(&self, name: &str) -> bool {
        self.0.0.lock().running.contains(&name)
    }

    pub fn stopped(&self) -> bool {
        self.0.0.lock().stopped
    }

    /// Tells all threads to stop.
    pub fn stop(&self) {
        let mut state = self.0.0.lock();
        state.stopped = true;
        state.signal = None;
    }

    /// Waits for a thread to end; gives up after `timeout` and leaves it to itself.
    pub fn wait(&self, name: &str, timeout: Duration) {
        let end = Instant::now() + timeout;
        let mut state = self.0.0.lock();
        while state.running.contains(&name) {
            if self.0.1.wait_until(&mut state, end).timed_out() {
                return;
            }
        }
    }
}

fn finished(shared: &(Mutex<State>, Condvar), name: &str) {
    shared.0.lock().running.retain(|running| *running != name);
    shared.1.notify_all();
}
