//! openraft's own tests of log and state machine, on ours.
use super::python;
use dfs_engine::raft::log::Log;
use dfs_engine::raft::machine::Machine;
use dfs_engine::raft::options::Options;
use dfs_engine::raft::queue::Queue;
use dfs_engine::raft::snapshot::Snapshots;
use dfs_engine::raft::types::Types;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
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
        let log = Log::open(&dir.path().join("log"), &Options::default()).unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let queue = Arc::new(Queue::new(0));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_state_forgets_the_answers_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Arc::new(Queue::new(10_000));
    let _python = python::Python::start(queue.clone());
    let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
    let progress = Arc::default();
    let mut machine = Machine::new(queue.clone(), progress, snapshots, None, Default::default());
    let mut builder = machine.get_snapshot_builder().await;
    let built = builder.build_snapshot().await.unwrap();
    let known = || {
        !queue
            .answers
            .split(vec![b"k"], |k| (2, &k[..]))
            .0
            .is_empty()
    };
    queue.answers.keep(1_000, 2, b"k", "old".into());
    assert!(known());
    machine
        .install_snapshot(&built.meta, built.snapshot)
        .await
        .unwrap();
    assert!(!known());
    queue.answers.keep(1, 2, b"k", "old".into());
    assert!(!known(), "the call had been handed out before");
}
