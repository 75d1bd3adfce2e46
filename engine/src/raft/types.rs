//! What openraft is told about our data: commands, results, members, and short names for its types.
use crate::call::Reply;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One proposal as Python and the leader's engine made it; opaque here.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying a command returned; `None` for Raft's own entries.
#[derive(Clone, Debug)]
pub struct Applied(pub Option<Reply>);

/// A node as the membership knows it; its id is the key it is found under.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    /// Advertised address of the peer port.
    pub raft: String,
    /// Advertised address of the public port.
    pub grpc: String,
}

openraft::declare_raft_types!(
    pub Types: D = Command, R = Applied, NodeId = u64, Node = Member
);

pub type LeaderId = openraft::alias::LeaderIdOf<Types>;
pub type LogId = openraft::alias::LogIdOf<Types>;
pub type Vote = openraft::alias::VoteOf<Types>;
pub type Entry = openraft::alias::EntryOf<Types>;
pub type Payload = openraft::alias::PayloadOf<Types>;
pub type Membership = openraft::Membership<u64, Member>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
pub type AppendResponse = openraft::raft::AppendEntriesResponse<Types>;
pub type AppendResult = openraft::raft::StreamAppendResult<Types>;
pub type VoteRequest = openraft::raft::VoteRequest<Types>;
pub type VoteResponse = openraft::raft::VoteResponse<Types>;
pub type TransferRequest = openraft::raft::TransferLeaderRequest<Types>;
pub type RpcError = openraft::errors::RPCError<Types>;
pub type Raft = openraft::Raft<Types, super::machine::Machine>;
