//! The bytes of Raft's messages and of what the log stores. Big endian; no input makes it panic.
//!
//! vote = term u64, node u64, committed u8 · log id = term u64, node u64, index u64 · optional = u8
//! 0|1 before it · payload = kind u8 (0 blank, 1 command, 2 membership), length u32, bytes.
use super::types::*;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::StreamAppendError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

pub const VOTE_BYTES: usize = 17;
pub const LOG_ID_BYTES: usize = 24;
/// Commands up to this size are copied out of the network frame they came in: a slice would keep
/// the whole frame in memory for as long as the entry is cached.
pub const COPY_BYTES_MAX: usize = 64 << 10;

pub fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Takes `n` bytes off the front.
pub fn take(b: &mut Bytes, n: usize) -> io::Result<Bytes> {
    if b.len() < n {
        return Err(bad("a message ends too early"));
    }
    Ok(b.split_to(n))
}

pub fn get_u8(b: &mut Bytes) -> io::Result<u8> {
    Ok(take(b, 1)?[0])
}

pub fn get_u16(b: &mut Bytes) -> io::Result<u16> {
    Ok(take(b, 2)?.get_u16())
}

pub fn get_u32(b: &mut Bytes) -> io::Result<u32> {
    Ok(take(b, 4)?.get_u32())
}

pub fn get_u64(b: &mut Bytes) -> io::Result<u64> {
    Ok(take(b, 8)?.get_u64())
}

/// Bytes behind a u32 length.
pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

pub fn get_bytes(b: &mut Bytes) -> io::Result<Bytes> {
    let n = get_u32(b)? as usize;
    take(b, n)
}

pub fn get_string(b: &mut Bytes) -> io::Result<String> {
    String::from_utf8(get_bytes(b)?.into()).map_err(|_| bad("a text is not UTF-8"))
}

pub fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.node_id);
    out.put_u8(vote.committed as u8);
}

pub fn get_vote(b: &mut Bytes) -> io::Result<Vote> {
    let (term, node) = (get_u64(b)?, get_u64(b)?);
    Ok(match get_u8(b)? {
        0 => Vote::new(term, node),
        _ => Vote::new_committed(term, node),
    })
}

pub fn put_log_id(out: &mut BytesMut, id: &LogId) {
    out.put_u64(id.leader_id.term);
    out.put_u64(id.leader_id.node_id);
    out.put_u64(id.index);
}

pub fn get_log_id(b: &mut Bytes) -> io::Result<LogId> {
    let leader_id = LeaderId {
        term: get_u64(b)?,
        node_id: get_u64(b)?,
    };
    Ok(LogId {
        leader_id,
        index: get_u64(b)?,
    })
}

/// A log id as the store keeps it.
pub fn log_id_bytes(id: &LogId) -> Bytes {
    let mut out = BytesMut::with_capacity(LOG_ID_BYTES);
    put_log_id(&mut out, id);
    out.freeze()
}

pub fn put_opt_log_id(out: &mut BytesMut, id: &Option<LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            put_log_id(out, id);
        }
    }
}

pub fn get_opt_log_id(b: &mut Bytes) -> io::Result<Option<LogId>> {
    match get_u8(b)? {
        0 => Ok(None),
        _ => Ok(Some(get_log_id(b)?)),
    }
}

/// A membership in JSON: small, rare, and readable by a person who looks at a disk.
#[derive(Serialize, Deserialize)]
struct Configuration {
    /// (term, node, index) of its entry; absent inside that entry itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_id: Option<(u64, u64, u64)>,
    /// Voters; two sets while one configuration gives way to the next.
    voters: Vec<BTreeSet<u64>>,
    members: BTreeMap<u64, Member>,
}

impl Configuration {
    fn of(membership: &Membership) -> Configuration {
        Configuration {
            log_id: None,
            voters: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, node)| (*id, node.clone()))
                .collect(),
        }
    }

    fn membership(self) -> io::Result<Membership> {
        Membership::new(self.voters, self.members).map_err(|e| bad(e.to_string()))
    }
}

fn to_json(configuration: &Configuration) -> Vec<u8> {
    serde_json::to_vec(configuration).expect("numbers and strings always have a JSON form")
}

fn from_json(bytes: &[u8]) -> io::Result<Configuration> {
    serde_json::from_slice(bytes).map_err(|e| bad(format!("a membership cannot be read: {e}")))
}

/// A membership with the id of its entry, as the store and snapshots keep it.
pub fn membership_bytes(stored: &StoredMembership) -> Bytes {
    let mut configuration = Configuration::of(stored.membership());
    configuration.log_id = stored
        .log_id()
        .map(|l| (l.leader_id.term, l.leader_id.node_id, l.index));
    to_json(&configuration).into()
}

/// The inverse; b"" is the membership of a node that belongs to nothing yet.
pub fn stored_membership(bytes: &[u8]) -> io::Result<StoredMembership> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let configuration = from_json(bytes)?;
    let log_id = configuration.log_id.map(|(term, node_id, index)| LogId {
        leader_id: LeaderId { term, node_id },
        index,
    });
    Ok(StoredMembership::new(log_id, configuration.membership()?))
}

pub fn put_payload(out: &mut BytesMut, payload: &Payload) {
    match payload {
        Payload::Blank => {
            out.put_u8(0);
            out.put_u32(0);
        }
        Payload::Normal(command) => {
            out.put_u8(1);
            put_bytes(out, &command.0);
        }
        Payload::Membership(m) => {
            out.put_u8(2);
            put_bytes(out, &to_json(&Configuration::of(m)));
        }
    }
}

pub fn payload(kind: u8, bytes: Bytes) -> io::Result<Payload> {
    match kind {
        0 => Ok(Payload::Blank),
        1 => Ok(Payload::Normal(Command(bytes))),
        2 => Ok(Payload::Membership(from_json(&bytes)?.membership()?)),
        other => Err(bad(format!("no payload has the kind {other}"))),
    }
}

/// Copies small commands out of the frame.
pub fn get_payload(b: &mut Bytes) -> io::Result<Payload> {
    let kind = get_u8(b)?;
    let bytes = get_bytes(b)?;
    let own = if bytes.len() <= COPY_BYTES_MAX {
        Bytes::copy_from_slice(&bytes)
    } else {
        bytes
    };
    payload(kind, own)
}

pub fn put_append(out: &mut BytesMut, r: &AppendRequest) {
    put_vote(out, &r.vote);
    put_opt_log_id(out, &r.prev_log_id);
    put_opt_log_id(out, &r.leader_commit);
    out.put_u32(r.entries.len() as u32);
    for entry in &r.entries {
        put_log_id(out, &entry.log_id);
        put_payload(out, &entry.payload);
    }
}

pub fn get_append(b: &mut Bytes) -> io::Result<AppendRequest> {
    let vote = get_vote(b)?;
    let prev_log_id = get_opt_log_id(b)?;
    let leader_commit = get_opt_log_id(b)?;
    let count = get_u32(b)? as usize;
    let mut entries = Vec::with_capacity(count.min(b.len() / LOG_ID_BYTES + 1));
    for _ in 0..count {
        entries.push(Entry {
            log_id: get_log_id(b)?,
            payload: get_payload(b)?,
        });
    }
    Ok(AppendRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

pub fn put_append_result(out: &mut BytesMut, r: &AppendResult) {
    match r {
        Ok(matched) => {
            out.put_u8(0);
            put_opt_log_id(out, matched);
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.put_u8(1);
            put_log_id(out, at);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(out, vote);
        }
    }
}

pub fn get_append_result(b: &mut Bytes) -> io::Result<AppendResult> {
    match get_u8(b)? {
        0 => Ok(Ok(get_opt_log_id(b)?)),
        1 => Ok(Err(StreamAppendError::Conflict(get_log_id(b)?))),
        2 => Ok(Err(StreamAppendError::HigherVote(get_vote(b)?))),
        other => Err(bad(format!("no append result has the kind {other}"))),
    }
}

pub fn put_append_response(out: &mut BytesMut, r: &AppendResponse) {
    match r {
        AppendResponse::Success => out.put_u8(0),
        AppendResponse::PartialSuccess(matched) => {
            out.put_u8(1);
            put_opt_log_id(out, matched);
        }
        AppendResponse::Conflict => out.put_u8(2),
        AppendResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(out, vote);
        }
    }
}

pub fn get_append_response(b: &mut Bytes) -> io::Result<AppendResponse> {
    match get_u8(b)? {
        0 => Ok(AppendResponse::Success),
        1 => Ok(AppendResponse::PartialSuccess(get_opt_log_id(b)?)),
        2 => Ok(AppendResponse::Conflict),
        3 => Ok(AppendResponse::HigherVote(get_vote(b)?)),
        other => Err(bad(format!("no append response has the kind {other}"))),
    }
}

pub fn put_vote_request(out: &mut BytesMut, r: &VoteRequest) {
    put_vote(out, &r.vote);
    put_opt_log_id(out, &r.last_log_id);
    out.put_u8(r.leadership_transfer as u8);
}

pub fn get_vote_request(b: &mut Bytes) -> io::Result<VoteRequest> {
    let vote = get_vote(b)?;
    let mut request = VoteRequest::new(vote, get_opt_log_id(b)?);
    request.leadership_transfer = get_u8(b)? != 0;
    Ok(request)
}

pub fn put_vote_response(out: &mut BytesMut, r: &VoteResponse) {
    put_vote(out, &r.vote);
    out.put_u8(r.vote_granted as u8);
    put_opt_log_id(out, &r.last_log_id);
}

pub fn get_vote_response(b: &mut Bytes) -> io::Result<VoteResponse> {
    let vote = get_vote(b)?;
    let vote_granted = get_u8(b)? != 0;
    Ok(VoteResponse {
        vote,
        vote_granted,
        last_log_id: get_opt_log_id(b)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(index: u64) -> LogId {
        LogId {
            leader_id: LeaderId {
                term: 3,
                node_id: u64::MAX >> 1,
            },
            index,
        }
    }

    fn append() -> AppendRequest {
        let member = Member {
            name: "node1".into(),
            ..Default::default()
        };
        let voters = vec![BTreeSet::from([5]), BTreeSet::from([5, 6])];
        let members = BTreeMap::from([(5, member.clone()), (6, member)]);
        let membership = Membership::new(voters, members).unwrap();
        let payloads = [
            Payload::Blank,
            Payload::Normal(Command(Bytes::from_static(b"a command"))),
            Payload::Membership(membership),
        ];
        let entry = |(i, payload)| Entry {
            log_id: log_id(8 + i as u64),
            payload,
        };
        AppendRequest {
            vote: Vote::new_committed(3, 5),
            prev_log_id: Some(log_id(7)),
            entries: payloads.into_iter().enumerate().map(entry).collect(),
            leader_commit: None,
        }
    }

    fn encoded() -> Bytes {
        let mut out = BytesMut::new();
        put_append(&mut out, &append());
        out.freeze()
    }

    #[test]
    fn an_append_request_comes_back_as_it_was() {
        let back = get_append(&mut encoded()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", append()));
    }

    #[test]
    fn small_commands_do_not_keep_the_frame_they_came_in() {
        let frame = encoded();
        let Ok(back) = get_append(&mut frame.clone()) else {
            panic!()
        };
        let Payload::Normal(command) = &back.entries[1].payload else {
            panic!()
        };
        let inside = frame.as_ptr_range().contains(&command.0.as_ptr());
        assert!(!inside, "it is a copy");
    }

    #[test]
    fn a_stored_membership_comes_back_and_nothing_is_the_empty_one() {
        let Payload::Membership(m) = append().entries.remove(2).payload else {
            panic!()
        };
        let stored = StoredMembership::new(Some(log_id(9)), m);
        assert_eq!(
            stored_membership(&membership_bytes(&stored)).unwrap(),
            stored
        );
        assert_eq!(stored_membership(b"").unwrap(), StoredMembership::default());
        assert!(stored_membership(b"{").is_err());
    }

    #[test]
    fn damaged_messages_are_errors_and_never_panics() {
        let whole = encoded();
        for cut in 0..whole.len() {
            assert!(get_append(&mut whole.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut bytes = BytesMut::from(&whole[..]);
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            let _ = get_append(&mut bytes.clone().freeze());
            let _ = get_vote_request(&mut bytes.clone().freeze());
            let _ = get_append_result(&mut bytes.clone().freeze());
            let _ = stored_membership(&bytes);
        }
    }

    #[test]
    fn requests_and_answers_of_elections_come_back() {
        let mut out = BytesMut::new();
        let mut request = VoteRequest::new(Vote::new(4, 6), Some(log_id(9)));
        request.leadership_transfer = true;
        put_vote_request(&mut out, &request);
        assert_eq!(
            get_vote_request(&mut out.split().freeze()).unwrap(),
            request
        );
        let response = VoteResponse {
            vote: request.vote,
            vote_granted: true,
            last_log_id: None,
        };
        put_vote_response(&mut out, &response);
        assert_eq!(
            get_vote_response(&mut out.split().freeze()).unwrap(),
            response
        );
    }
}
