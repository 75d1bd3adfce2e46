//! A thread that does what Python does: steps, applies to nothing, makes and takes snapshots.
use bytes::Bytes;
use dfs_engine::raft::queue::{Queue, Taken, WorkKind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Ends its thread when dropped.
pub struct Python {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Python {
    pub fn start(queue: Arc<Queue>) -> Python {
        let own = queue.clone();
        let thread = std::thread::spawn(move || {
            while let Ok(taken) = own.take(512, Duration::from_secs(1)) {
                turn(&own, taken);
            }
        });
        Python {
            queue,
            thread: Some(thread),
        }
    }
}

fn turn(queue: &Queue, taken: Taken) {
    for (seq, batch) in taken.batches {
        let one = |(index, _, wanted): &(u64, Bytes, bool)| {
            wanted.then(|| Ok(Bytes::from(index.to_string())))
        };
        assert!(queue.applied(seq, batch.items.iter().map(one).collect()));
    }
    for work in taken.work {
        if work.kind == WorkKind::Snapshot {
            queue.frozen(work.id);
            std::fs::write(&work.text, "a state").unwrap();
        }
        queue.finish(work.id, Ok(Bytes::new()));
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
