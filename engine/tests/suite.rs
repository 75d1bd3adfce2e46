//! openraft's own tests of log and state machine, on ours.
mod python;

use dfs_engine::raft::log::Log;
use dfs_engine::raft::machine::Machine;
use dfs_engine::raft::queue::Queue;
use dfs_engine::raft::snapshot::Snapshots;
use dfs_engine::raft::types::Types;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;

struct Builder;

/// Dropped last: the directory, and the thread that plays Python.
struct Keep {
    _dir: tempfile::TempDir,
    _python: python::Python,
}

impl StoreBuilder<Types, Log, Machine, Keep> for Builder {
    async fn build(&self) -> Result<(Keep, Log, Machine), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log")).unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let queue = Arc::new(Queue::default());
        let python = python::Python::start(queue.clone());
        let machine = Machine::new(queue, Arc::default(), snapshots, None, Default::default());
        Ok((
            Keep {
                _dir: dir,
                _python: python,
            },
            log,
            machine,
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}
