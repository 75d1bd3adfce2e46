//! Why `enable_leader_restore` is off: with openraft's default a restarted leader goes on in its
//! old term, without an election, and gives away log ids again that followers may have seen.
use super::python;
use bytes::Bytes;
use dfs_engine::call::Failure;
use dfs_engine::raft::client::Factory;
use dfs_engine::raft::log::Log;
use dfs_engine::raft::machine::Machine;
use dfs_engine::raft::node::{Node, Setup};
use dfs_engine::raft::options::{Options, raft_config};
use dfs_engine::raft::shared::FAILURES;
use dfs_engine::raft::snapshot::Snapshots;
use dfs_engine::raft::types::{Member, Raft};
use openraft::ServerState;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn node(dir: &Path) -> Node {
    let failure = Failure {
        code: 14,
        message: String::new(),
        details: Bytes::new(),
    };
    let failures = FAILURES
        .iter()
        .map(|kind| (kind.to_string(), failure.clone()))
        .collect();
    Node::open(Setup {
        data_dir: dir.into(),
        id: 7,
        me: Member::default(),
        cluster: Bytes::new(),
        raft_addr: "127.0.0.1:0".into(),
        failures,
        options: Options::default(),
        contents: Default::default(),
    })
    .unwrap()
}

/// Starts Raft on the directory as a cluster of one, ends it when it leads; returns its term.
async fn round(dir: &Path, config: openraft::Config) -> u64 {
    let side = node(&dir.join("side"));
    let shared = side.shared.clone();
    let _python = python::Python::start(shared.queue.clone());
    let log = Log::open(&dir.join("log"), &Options::default()).unwrap();
    let snapshots = Snapshots::open(&dir.join("snapshots")).unwrap();
    let (queue, progress) = (shared.queue.clone(), shared.progress.clone());
    let machine = Machine::new(queue, progress, snapshots, None, Default::default());
    let config = Arc::new(config.validate().unwrap());
    let raft = Raft::new(7, config, Factory(shared), log.clone(), machine)
        .await
        .unwrap();
    if !raft.is_initialized().await.unwrap() {
        raft.initialize(BTreeMap::from([(7, Member::default())]))
            .await
            .unwrap();
    }
    let limit = Some(Duration::from_secs(10));
    let metrics = raft
        .wait(limit)
        .state(ServerState::Leader, "leads")
        .await
        .unwrap();
    raft.wait(limit)
        .applied_index_at_least(Some(1), "its first entry")
        .await
        .unwrap();
    raft.shutdown().await.unwrap();
    log.close();
    tokio::task::spawn_blocking(move || drop(side))
        .await
        .unwrap();
    metrics.current_term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_leader_stands_for_election_and_the_default_would_not() {
    let dir = tempfile::tempdir().unwrap();
    let ours = raft_config(&Options::default());
    assert_eq!(ours.enable_leader_restore, Some(false));
    let default = openraft::Config {
        enable_leader_restore: None,
        ..ours.clone()
    };
    let first = round(dir.path(), ours.clone()).await;
    let second = round(dir.path(), ours).await;
    assert!(second > first, "a new term, by an election");
    let third = round(dir.path(), default).await;
    assert_eq!(
        third, second,
        "the default resumes in the old term: has it changed?"
    );
}

#[test]
fn pre_vote_is_on() {
    assert_eq!(raft_config(&Options::default()).enable_pre_vote, Some(true));
}
