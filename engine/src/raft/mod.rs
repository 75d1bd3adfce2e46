//! Raft on openraft: the log, the peer port, proposals, reads, membership, snapshots.
//!
//! ```text
//!  wire ──call──► shared ──► reads (barrier) ──► queue ◄──step── Python
//!                    │                            │  ▲
//!                    └────── propose ◄────────────┘  │ batches
//!                        │         │                 │
//!                 leader │         │ follower        │
//!                        ▼         ▼                 │
//!                     openraft   forward ──► peer  machine
//!                    │   │   │
//!                  log client snapshots
//! ```
//!
//! types, codec: what things are and their bytes · options: settings · log: storage on raft-log ·
//! machine, progress, snapshot: the state machine's side · queue: the meeting with Python ·
//! answers: what reads need not ask there again · hello, peers, client, riding, server, transfer,
//! forward, chunks: peers · calls, propose, reads, confirm, members: what is asked of Raft ·
//! housekeep, status, stand, shared, node: one running node.
pub mod answers;
pub mod calls;
pub mod chunks;
pub mod client;
pub mod codec;
pub mod confirm;
pub mod forward;
pub mod hello;
pub mod housekeep;
pub mod log;
pub mod machine;
pub mod members;
pub mod node;
pub mod options;
pub mod peers;
pub mod progress;
pub mod propose;
pub mod queue;
pub mod reads;
pub mod riding;
pub mod server;
pub mod shared;
pub mod snapshot;
pub mod stand;
pub mod status;
mod streams;
pub mod transfer;
pub mod types;
