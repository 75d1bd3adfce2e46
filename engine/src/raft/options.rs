//! The engine's settings: a name, a default and a reason each. Python passes numbers by name.

macro_rules! options {
    ($($(#[doc = $doc:literal])* $name:ident = $default:expr;)+) => {
        /// All settings; see each field.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Options { $($(#[doc = $doc])* pub $name: u64,)+ }

        impl Default for Options {
            fn default() -> Options { Options { $($name: $default,)+ } }
        }

        impl Options {
            /// Name and default of every setting.
            pub const TABLE: &'static [(&'static str, u64)] =
                &[$((stringify!($name), $default),)+];

            /// Sets one by name; false when there is none of that name.
            pub fn set(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = value,)+
                    _ => return false,
                }
                true
            }
        }
    };
}

options! {
    /// Of the leader.
    heartbeat_ms = 50;
    /// A silent follower waits `election_ms_max` and then a random time between the two.
    election_ms_min = 300;
    election_ms_max = 600;
    /// Of kept answers to reads.
    answers_bytes_max = 64 << 20;
    /// Unary calls inside the node, and so many streamed ones; more are refused.
    calls_waiting_max = 8_192;
    /// Bytes of their bodies.
    call_bytes_waiting_max = 128 << 20;
    /// Of the leader's log, not applied by it yet; beyond that it takes no more.
    apply_lag_entries_max = 100_000;
    apply_lag_bytes_max = 256 << 20;
    /// Of a call that names no deadline.
    deadline_ms_default = 10_000;
    deadline_ms_max = 30_000;
    /// A Put of the largest value with its key and metadata.
    message_bytes_max = (16 << 20) + (64 << 10);
    /// Of one request's HTTP headers.
    metadata_bytes_max = 8 << 10;
    streams_per_connection_max = 1_024;
    /// Of a streamed answer: accepted, but not taken by its caller, before its maker has to wait.
    stream_bytes = 1 << 20;
    /// On each of the two ports.
    connections_max = 256;
    /// On the public port.
    connections_per_address_max = 128;
    handshake_ms_max = 3_000;
    /// Log written since the last snapshot before the next; never less than the size of its file.
    snapshot_log_bytes = 16 << 20;
    /// Kept behind a snapshot, so that a member that was away briefly needs none.
    log_keep_bytes = 64 << 20;
    /// Of one file of the log; a purge frees whole files.
    log_file_bytes = 16 << 20;
    /// A flush of the log is late when a majority without this node was so much quicker.
    disk_late_ms = 25;
    /// A leader whose every flush was late for so long hands leadership away.
    disk_late_for_ms = 2_000;
    /// So does one whose flush takes so much longer than that of a majority.
    disk_stall_ms_max = 1_000;
    /// How long a proposal or read waits for a leader before it fails.
    no_leader_ms_max = 5_000;
    /// A peer that owes an answer longer than this gets a new append session.
    answer_ms_max = 1_000;
    /// A snapshot transfer that moves nothing for so long is broken off; it resumes where it was.
    stall_ms_max = 10_000;
    /// A leader whose Python has work and takes none for so long hands leadership away.
    python_ms_max = 1_000;
    /// A peer that answers heartbeats but accepts nothing for so long gets a new append session.
    progress_ms_max = 5_000;
    /// 1 = both ports serve callers that are not on this machine, without any authentication.
    insecure = 0;
    /// Worker threads; 0 = half of the processors, at least 1 and at most 4.
    threads = 0;
}

/// Apply commands that wait for Python; each stands for one move of the commit index.
const STATE_MACHINE_COMMANDS_MAX: u64 = 1 << 16;

/// openraft's settings. Two of them carry the promise that no acknowledged write is lost.
pub fn raft_config(options: &Options) -> openraft::Config {
    openraft::Config {
        cluster_name: "dfs".into(),
        // For openraft the time between two heartbeats is also the time that an answer may take: a
        // leader whose network is slower would take no writes. `beat` sends them more often.
        heartbeat_interval: options.election_ms_min * 3 / 4,
        election_timeout_min: options.election_ms_min,
        election_timeout_max: options.election_ms_max,
        // Without it a node that was cut off disturbs the cluster when it comes back.
        enable_pre_vote: Some(true),
        // A leader that has lost the majority keeps silent for so long, then beats for so long, and
        // so on. Else who still hears it would vote for nobody, though others need his vote.
        quorum_loss_probe_interval: Some(2 * options.election_ms_max),
        // By default a restarted leader goes on in its old term and gives away log ids again that
        // the followers have seen: acknowledged writes are lost.
        enable_leader_restore: Some(false),
        // Snapshots and purge are by bytes, in housekeep.rs.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A member behind the purged log gets a snapshot; nobody else.
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 1_024,
        // When it is full Raft itself waits, and answers nobody: a busy Python must not do that.
        state_machine_channel_size: Some(STATE_MACHINE_COMMANDS_MAX),
        backoff: "20ms".into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn set_knows_every_name_of_the_table_and_no_other() {
        let mut options = Options::default();
        for (name, default) in Options::TABLE {
            assert!(options.set(name, default + 1), "{name}");
        }
        assert_ne!(options, Options::default());
        assert!(!options.set("heartbeat", 1));
    }
}
