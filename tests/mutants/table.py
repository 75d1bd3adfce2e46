"""The bugs. Each is a change of one place, and names the tests that have to fail of it.

Most were made by somebody once: the comments name where.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """One bug."""

    name: str
    file: str
    before: str
    """Occurs once in the file."""
    after: str
    tests: tuple[str, ...]
    """Arguments of pytest; or, behind "rust", a filter of cargo test."""


def kills(text: str) -> tuple[str, ...]:
    """A test of whole clusters."""
    return (f"tests/t6_cluster/{text}",)


POWER: Final = kills("test_nemesis.py::test_power_cuts")
PARTITIONS: Final = kills("test_nemesis.py::test_partitions")
KILLS: Final = kills("test_kills.py::test_kill_nodes_under_load")
PAST: Final = ("tests/t1_store/test_past.py",)
STORE: Final = ("tests/t1_store",)
NODE: Final = ("tests/t3_node",)
CHANGES: Final = ("tests/t3_node/test_changes.py", "-k", "not real")
LARGE_CHANGES: Final = ("tests/t3_node/test_large_transactions.py",)
CONTENTS: Final = ("tests/t3_node/test_large_contents.py",)
CLIENT: Final = ("tests/t4_api", "-k", "client")
READY: Final = ("tests/t5_mount/test_mount_ready.py",)

MUTANTS: Final = (
    # ---- agreement and its log -------------------------------------------------------------------
    Mutant(  # openraft's default: a killed leader goes on with a shorter log
        "leader-restore", "engine/src/raft/options.rs",
        "enable_leader_restore: Some(false)", "enable_leader_restore: Some(true)", KILLS,
    ),
    Mutant(  # openraft's default, and an outage that Cloudflare had of its etcd in 2020
        "leader-keeps-its-last-follower", "engine/src/raft/options.rs",
        "quorum_loss_probe_interval: Some(2 * options.election_ms_max)",
        "quorum_loss_probe_interval: None",
        kills("test_nemesis.py::test_a_leader_without_a_majority_is_replaced_by_a_node_that_still"
              "_hears_it"),
    ),
    Mutant(  # nodedb 161: two votes in one term
        "vote-not-saved", "engine/src/raft/log/mod.rs",
        "        self.writing(|log| log.save_vote(StoredVote(*vote)))?;\n        self.sync().await",
        "        let _ = vote;\n        Ok::<(), io::Error>(())",
        ("rust", "only_the_vote_that_was_saved_last_is_confirmed"),
    ),
    Mutant(  # a disk that hung, here: the next leader ends, too
        "what-has-arrived-counts-as-installed", "engine/src/raft/machine.rs",
        ".filter(|s| s.meta.last_log_id <= self.last)", ".filter(|s| s.meta.last_log_id.is_some())",
        ("rust", "a_snapshot_that_has_arrived_is_no_state_of_here_before_it_is_installed"),
    ),
    Mutant(  # the next one would remove the file that is being read
        "installing-ends-with-its-sender", "engine/src/raft/transfer.rs",
        "let _turn = turn;", "drop(turn);",
        ("tests/t2_engine/test_late_snapshots.py",),
    ),
    Mutant(  # the kernel reads local files by itself
        "what-was-written-to-is-read", "engine/src/mount/pins.rs",
        "found.len() == node.size && is_sealed(found)", "found.len() == node.size",
        ("rust", "a_file_that_somebody_wrote_to_is_damaged_and_forgotten"),
    ),
    Mutant(  # kept awake for as long as the mount is there
        "sleepers-keep-cores-awake", "engine/src/mount/device.rs",
        "            waits.cores.keep_awake(false);\n", "",
        ("rust", "cores_are_kept_awake_while_it_looks_and_not_while_it_sleeps"),
    ),
    Mutant(  # etcd 14370
        "acknowledged-before-sync", "engine/src/raft/log/mod.rs",
        "            self.flush(log, last, Told::Raft(callback))",
        "            let _ = last;\n            callback.io_completed(Ok(()));\n            Ok(())",
        POWER,
    ),
    Mutant(
        "failed-sync-ignored", "engine/src/raft/log/stored.rs",
        "    fn send(self, result: io::Result<()>) {",
        "    fn send(self, _: io::Result<()>) {\n        let result: io::Result<()> = Ok(());",
        kills("test_kth.py"),
    ),
    Mutant(  # ours: a gap in the log that no start got over
        "written-after-a-failure", "engine/src/raft/log/mod.rs",
        "        self.broken.check()?;\n        write(log)", "        write(log)",
        ("rust", "what_failed_once_is_not_tried_again"),
    ),
    Mutant(  # etcd 15247
        "slow-disk-leads", "engine/src/raft/housekeep.rs",
        "            self.watch_disk();\n", "",
        kills("test_disks.py::test_leadership_leaves_a_slow_disk"),
    ),
    Mutant(  # qdrant 1329: the last entry of a conflict stays
        "truncated-too-little", "engine/src/raft/log/mod.rs",
        "self.truncate_at(last.map_or(0, |l| l.index + 1)).await",
        "self.truncate_at(last.map_or(0, |l| l.index + 2)).await",
        PARTITIONS,
    ),
    Mutant(
        "purged-before-durable", "engine/src/raft/housekeep.rs",
        "snapshot.min(known).min(self.shared.log.extent().durable)", "snapshot.min(known)",
        kills("test_kills.py::test_the_log_keeps_what_the_store_has_not_on_disk"),
    ),
    # ---- who the members are ---------------------------------------------------------------------
    Mutant(  # two majorities that do not meet
        "two-votes-in-one-change", "src/dfs/node/plans.py",
        "learner = replace(there, raft=new.raft, grpc=new.grpc)",
        "learner = replace(there, raft=new.raft, grpc=new.grpc, voter=True)",
        ("tests/t3_node/test_plans.py",),
    ),
    Mutant(
        "removed-below-the-majority", "src/dfs/node/plans.py",
        "if left.spare >= 0:", "if left.spare >= -1:", ("tests/t3_node/test_plans.py",),
    ),
    Mutant(
        "configuration-not-compared", "src/dfs/node/changes.py",
        "if meant not in (None, now.config):", "if meant not in (None, now.config) and not meant:",
        CHANGES,
    ),
    Mutant(  # a second node under the name of one that lives
        "living-member-replaced", "src/dfs/node/changes.py",
        "            if number == member.id:\n", "            if number == -1:\n", CHANGES,
    ),
    Mutant(
        "removed-node-goes-on", "src/dfs/node/hot.py",
        "return self.fault or self.away or self.dismissal", "return self.fault or self.away",
        CHANGES,
    ),
    # ---- reads -----------------------------------------------------------------------------------
    Mutant(  # etcd, TiKV 9239
        "no-read-barrier", "engine/src/raft/reads.rs",
        "Leader::Me => own_round(&self.shared).await,",
        "Leader::Me => Some(self.shared.progress.applied()),", PARTITIONS,
    ),
    Mutant(
        "barrier-not-awaited", "engine/src/raft/reads.rs",
        "        self.shared.when_applied(index, deadline, together);",
        "        self.shared.when_applied(0, deadline, together);", KILLS,
    ),
    Mutant(
        "half-is-a-majority", "engine/src/raft/confirm.rs",
        "config.intersection(ids).count() > config.len() / 2",
        "config.intersection(ids).count() >= config.len() / 2", PARTITIONS,
    ),
    Mutant(
        "any-vote-confirms", "engine/src/raft/server.rs",
        "Ok(log.saved_vote() == Some(get_vote(request)?))",
        "get_vote(request)?;\n    Ok(log.saved_vote().is_some())",
        ("rust", "only_the_vote_that_was_saved_last_is_confirmed"),
    ),
    Mutant(  # d-engine 390: a lease by the clock
        "lease-of-three-seconds", "engine/src/raft/reads.rs",
        "        if let Some(index) = confirmed_index(shared).await {\n"
        "            return Some(index);\n        }",
        "        static LEASE: std::sync::Mutex<Option<Instant>> = std::sync::Mutex::new(None);\n"
        "        let held = *LEASE.lock().unwrap();\n"
        "        if held.is_some_and(|since| since.elapsed() < Duration::from_secs(3)) {\n"
        "            return Some(shared.progress.applied());\n        }\n"
        "        if let Some(index) = confirmed_index(shared).await {\n"
        "            *LEASE.lock().unwrap() = Some(Instant::now());\n"
        "            return Some(index);\n        }",
        PARTITIONS,
    ),
    Mutant(
        "kept-answers-stay", "src/dfs/node/hot.py",
        "        self._changed = self._codec.changed(changed)\n",
        "        self._changed = []\n", KILLS,
    ),
    Mutant(
        "past-lists-forget-what-was-removed", "src/dfs/store/past.py",
        "merge(live, indexed,", "merge(live, iter(()),", PAST,
    ),
    Mutant(
        "past-lists-take-the-present-version", "src/dfs/store/past.py",
        "found[1].revision <= revision", "found[1].created <= revision", PAST,
    ),
    Mutant(
        "content-of-the-past-is-read-at-its-version", "src/dfs/cache/fetcher.py",
        "        wanted = Wanted(key, version, at, path)",
        "        wanted = Wanted(key, version, version, path)",
        ("tests/t5_mount/test_mount_past.py",),
    ),
    Mutant(
        "the-past-dies-with-the-agent", "engine/src/mount/table.rs",
        "        past: bytes[60] != FILE,\n", "        past: false,\n",
        ("tests/t5_mount/test_mount_past.py",),
    ),
    # ---- small files that were closed ------------------------------------------------------------
    Mutant(  # content that is ready could not be removed
        "hidden-files-stay-ready", "engine/src/mount/told.rs",
        "        if hides {\n", "        if hides && shown == usize::MAX {\n", READY,
    ),
    Mutant(  # the space of what was deleted is not free
        "replaced-files-stay-ready", "engine/src/mount/change.rs",
        "        batch.retired.push(node.id);\n", "        let _ = batch;\n", READY,
    ),
    Mutant(
        "what-comes-along-is-not-verified", "engine/src/contents/small.rs",
        "found == **digest && make", "found.len() == digest.len() && make",
        ("tests/t2_engine/test_small_objects.py",),
    ),
    Mutant(
        "each-file-that-is-looked-up-is-made-ready", "engine/src/mount/ahead.rs",
        "        right >= RIGHT_MIN", "        right <= RIGHT_MAX", READY,
    ),
    Mutant(
        "ready-files-are-not-compared", "engine/src/mount/ready.rs",
        "inode(found) == self.inode && is_as_committed(&self.node, found)",
        "is_as_committed(&self.node, found)", READY,
    ),
    Mutant(  # nobody would ever close them
        "ready-files-outlive-the-agent", "engine/src/mount/session.rs",
        "        self.let_go(|_| pins.collect());\n", "        let _ = pins.count();\n", READY,
    ),
    Mutant(  # a kill leaves half a row
        "rows-begin-with-their-node", "engine/src/mount/table.rs",
        "            let mut bytes = Vec::with_capacity(ROW);\n",
        "            at.store(row.node.to_le(), Release);\n"
        "            let mut bytes = Vec::with_capacity(ROW);\n",
        ("rust", "a_process_that_is_killed_leaves_rows_that_are_whole_or_free"),
    ),
    # ---- identity --------------------------------------------------------------------------------
    Mutant(  # TigerBeetle 2767: an empty disk votes under its old name
        "wiped-node-under-its-id", "engine/src/raft/hello.rs",
        "if hello.to_id != 0 && hello.to_id != shared.id {",
        "if false && hello.to_id != shared.id {", ("tests/t2_engine",),
    ),
    Mutant(
        "foreign-cluster-is-heard", "engine/src/raft/hello.rs",
        "    if foreign {\n", "    if foreign && false {\n", ("tests/t2_engine",),
    ),
    # ---- outcomes --------------------------------------------------------------------------------
    Mutant(
        "unknown-is-called-undone", "engine/src/raft/propose.rs",
        'Outcome::Unknown(why) => Err(self.failure("outcome_unknown").with(why)),',
        'Outcome::Unknown(why) => Err(self.failure("no_leader").with(why)),', KILLS,
    ),
    Mutant(  # FoundationDB's commit_unknown_result
        "requests-are-not-remembered", "src/dfs/store/operations.py",
        "    if done is not None:\n        return done\n    outcome", "    outcome", STORE,
    ),
    Mutant(
        "client-takes-new-ids", "src/dfs/client/calls.py",
        "    return given\n", "    return uuid7()\n", CLIENT,
    ),
    Mutant(
        "client-forgets-earlier-attempts", "src/dfs/client/faults.py",
        "        self._unknown = self._unknown or unknown\n",
        "        self._unknown = unknown\n", CLIENT,
    ),
    Mutant(
        "client-forgets-what-it-saw", "src/dfs/client/session.py",
        "            if revision > self._seen:\n                self._seen = revision\n",
        "", CLIENT,
    ),
    # ---- state -----------------------------------------------------------------------------------
    Mutant(  # etcd 3.5: the applied index in another write than the data
        "applied-index-apart", "src/dfs/store/core.py",
        "        batch.changes[META_KEY] = batch.meta.pack()\n"
        "        self._kv.write(batch.changes)\n",
        "        self._kv.write(batch.changes)\n"
        "        self._kv.write({META_KEY: batch.meta.pack()})\n", STORE,
    ),
    Mutant(
        "condition-of-a-write-ignored", "src/dfs/store/tree.py",
        "    found = old.revision if old else 0\n", "    found = expected\n", KILLS,
    ),
    Mutant(
        "condition-of-a-part-ignored", "src/dfs/store/transaction.py",
        "    if old is not None or base:\n", "    if old is not None:\n", STORE,
    ),
    Mutant(
        "hash-forgets-deletions", "src/dfs/store/batch.py",
        "        self.meta.keys -= 1\n        self._uncount(old)\n",
        "        self.meta.keys -= 1\n", STORE,
    ),
    Mutant(  # jgroups-raft 301: deleted keys come back with a snapshot
        "snapshot-is-merged", "src/dfs/kv/memory.py",
        "        fresh = SortedDict(records)\n",
        "        fresh = SortedDict(self._map)\n        fresh.update(records)\n", STORE,
    ),
    Mutant(
        "snapshot-digest-unread", "src/dfs/store/snapshot.py",
        "if self.read(_DIGEST_BYTES) != self._digest.digest():",
        "if not self.read(_DIGEST_BYTES):", STORE,
    ),
    Mutant(
        "durable-before-it-is", "src/dfs/store/core.py",
        "        self._kv.flush()\n        return applied",
        "        return applied", POWER,
    ),
    Mutant(
        "floor-takes-the-newest", "src/dfs/store/batch.py",
        "        if event.previous:\n            self.changes[history_key(event.previous, "
        "event.previous_sub)] = None\n",
        "        self.changes[store_key] = None\n", STORE,
    ),
    Mutant(
        "damage-is-read-over", "src/dfs/store/read.py",
        "            if store_key[:1] != INDEX:\n                unseal(store_key, value)\n",
        "            pass\n", ("tests/t3_node/test_scrub.py",),
    ),
    Mutant(  # ours: a leader whose clock was days ahead dropped all history
        "one-clock-makes-history-old", "src/dfs/node/keeping.py",
        "    needed = voters // 2 + 1\n", "    needed = 1\n", ("tests/t3_node/test_keeping.py",),
    ),
    # ---- watches ---------------------------------------------------------------------------------
    Mutant(  # ours: power cuts of all ended watches
        "lagging-node-denies-revisions", "src/dfs/node/node.py",
        "            await self.barrier(False, 0, WATCH_WAIT_MS_MAX)\n", "            pass\n",
        ("tests/t3_node/test_streams.py",),
    ),
    Mutant(  # etcd 17529: events are lost when the watcher is slow
        "slow-watchers-lose", "src/dfs/node/watch/watcher.py",
        "        self.collect()\n        self.behind = True\n", "        self.collect()\n", NODE,
    ),
    Mutant(
        "watchers-skip-deletions", "src/dfs/node/watch/watcher.py",
        "            if concerns:\n                found.append(change)\n",
        "            if concerns and not change[1][8] & 1:\n                found.append(change)\n",
        KILLS,
    ),
    # ---- files -----------------------------------------------------------------------------------
    Mutant(
        "content-on-one-disk", "src/dfs/node/contents/spreading.py",
        "        return 2 * held > len(asked)\n", "        return held > 0\n", CONTENTS,
    ),
    Mutant(
        "content-goes-without-a-barrier", "src/dfs/node/contents/contents.py",
        "            await barrier()\n", "            pass\n", CONTENTS,
    ),
    Mutant(
        "content-is-not-touched", "src/dfs/contents.py",
        "                use(self.path(sha256))\n",
        "                self.path(sha256).stat()\n", CONTENTS,
    ),
    Mutant(
        "content-is-not-verified", "src/dfs/contents.py",
        "        if hashlib.sha256(data).digest() != manifest.digest(number):\n",
        "        if len(data) != length:\n", CONTENTS,
    ),
    Mutant(
        "vote-without-contents", "src/dfs/node/joining.py",
        '"applied": applied, "missing": missing,', '"applied": applied, "missing": 0,',
        CONTENTS,
    ),
    Mutant(
        "digests-of-chunks-prove-the-whole", "src/dfs/assembling.py",
        "        if self._whole.digest() != manifest.sha256:\n", "        if False:\n",
        ("tests/t3_node/test_gathering.py",),
    ),
    Mutant(
        "background-takes-all", "src/dfs/node/contents/pulls.py",
        "        while not pull.wanted.is_set():\n", "        while False:\n",
        ("tests/t3_node/test_background.py",),
    ),
    Mutant(
        "the-silent-have-nothing", "src/dfs/node/contents/contents.py",
        'all(isinstance(answer, dict) and answer["has"][0] < 2 for',
        'all(not isinstance(answer, dict) or answer["has"][0] < 2 for',
        ("tests/t3_node/test_background.py",),
    ),
    Mutant(
        "objects-are-not-verified", "src/dfs/sealing.py",
        'right = hashlib.file_digest(file, "sha256").digest() == sha256', "right = True",
        ("tests/t5_mount",),
    ),
    Mutant(
        "chunks-are-not-verified", "src/dfs/cache/arriving.py",
        "            if hashlib.sha256(data).digest() != manifest.digest(number):\n",
        "            if len(data) != manifest.length(number):\n",
        ("tests/t5_mount/test_cache_arriving.py",),
    ),
    Mutant(
        "chunks-that-were-left-are-trusted", "src/dfs/contents.py",
        "    return (written or manifest.empty(number)) and not wrong(fd, manifest, [number])\n",
        "    return written or manifest.empty(number)\n",
        ("tests/t5_mount/test_cache_arriving.py",),
    ),
    Mutant(
        "reads-do-not-wait-for-chunks", "engine/src/mount/part.rs",
        "(!self.has(chunks)).then_some(chunks)", "false.then_some(chunks)",
        ("tests/t5_mount/test_mount_arriving.py",),
    ),
    Mutant(
        "transaction-without-holders", "src/dfs/server/contents.py",
        "        await contents.spread(manifest, self._before(key), told)\n",
        "        _ = self._before(key), told\n", LARGE_CHANGES,
    ),
    Mutant(  # ours: what a request said of the chunks of a content was believed
        "digests-not-proved", "src/dfs/server/contents.py",
        "        await contents.prove(manifest)\n", "", LARGE_CHANGES,
    ),
    # ---- backup, audit, recovery -----------------------------------------------------------------
    Mutant(  # two clusters made of one backup could be taken for one
        "restored-nodes-are-the-same", "src/dfs/offline/restore.py",
        "number = new_id()", "number = 1",
        ("tests/t1_store/test_backup.py",),
    ),
    Mutant(
        "half-a-backup-is-whole", "src/dfs/client/streams.py",
        "        if not self._ended:", "        if False:", ("tests/t4_api/test_backup.py",),
    ),
    Mutant(
        "contents-go-while-they-are-saved", "src/dfs/node/contents/contents.py",
        "                if not self._readers and ", "                if ",
        ("tests/t3_node/test_backup.py",),
    ),
    Mutant(
        "chunks-of-a-backup-are-not-verified", "src/dfs/store/backup.py",
        "            if hashlib.sha256(data).digest() != manifest.digest(number):",
        "            if False:", ("tests/t1_store/test_backup.py",),
    ),
    Mutant(
        "recovery-drops-the-tail", "src/dfs/offline/recover.py",
        "end = place.last.position if with_tail", "end = place.committed if with_tail",
        ("tests/t3_node/test_offline.py",),
    ),
    Mutant(
        "audit-believes-the-state-hash", "src/dfs/store/soundness.py",
        "        if self.state_hash != meta.state_hash:", "        if False:",
        ("tests/t1_store/test_state_check.py",),
    ),
)
