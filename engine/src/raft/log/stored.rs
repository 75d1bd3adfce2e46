//! Our types in the form that raft-log stores.
use super::super::codec::*;
use super::super::types::*;
use super::Broken;
use super::flushes::{Bounds, Flushes};
use bytes::{Bytes, BytesMut};
use openraft::storage::IOFlushed;
use raft_log::codeq::{Decode, Encode};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

/// Of a payload: so much memory is taken before it is known whether its length is true. A start
/// reads hundreds of thousands of them.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// A log id in the form that raft-log stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredLogId(pub LogId);

impl Encode for StoredLogId {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&log_id_bytes(&self.0))?;
        Ok(LOG_ID_BYTES)
    }
}

impl Decode for StoredLogId {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let mut number = || -> io::Result<u64> {
            let mut b = [0; 8];
            r.read_exact(&mut b)?;
            Ok(u64::from_be_bytes(b))
        };
        let (term, node_id) = (number()?, number()?);
        Ok(StoredLogId(LogId {
            leader_id: LeaderId { term, node_id },
            index: number()?,
        }))
    }
}

/// A vote in the form that raft-log stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub struct StoredVote(pub Vote);

impl Encode for StoredVote {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        let mut b = BytesMut::with_capacity(VOTE_BYTES);
        put_vote(&mut b, &self.0);
        w.write_all(&b)?;
        Ok(b.len())
    }
}

impl Decode for StoredVote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let mut b = [0; VOTE_BYTES];
        r.read_exact(&mut b)?;
        Ok(StoredVote(get_vote(&mut Bytes::copy_from_slice(&b))?))
    }
}

/// A payload in the form that raft-log stores.
#[derive(Clone, Debug)]
pub struct StoredPayload(pub Payload);

impl Encode for StoredPayload {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        if let Payload::Normal(command) = &self.0 {
            w.write_all(&[1])?;
            w.write_all(&(command.0.len() as u32).to_be_bytes())?;
            w.write_all(&command.0)?;
            return Ok(5 + command.0.len());
        }
        let mut b = BytesMut::new();
        put_payload(&mut b, &self.0);
        w.write_all(&b)?;
        Ok(b.len())
    }
}

impl Decode for StoredPayload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let mut head = [0; 5];
        r.read_exact(&mut head)?;
        let n = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut bytes = vec![0; n.min(AT_ONCE_BYTES_MAX)];
        r.read_exact(&mut bytes)?;
        let rest = (n - bytes.len()) as u64;
        if rest > 0 && r.take(rest).read_to_end(&mut bytes)? as u64 != rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(StoredPayload(payload(head[0], bytes.into())?))
    }
}

/// Who is told when bytes are on disk.
pub enum Told {
    Raft(IOFlushed<Types>),
    Waiter(tokio::sync::oneshot::Sender<io::Result<()>>),
}

/// A flush under way, for all that were waiting when it began.
pub struct Flushed {
    pub told: Vec<Told>,
    pub flushes: Arc<Flushes<Told>>,
    pub bounds: Bounds,
    pub broken: Arc<Broken>,
}

/// The same error once more: several are told of it.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        if let Err(error) = &result {
            self.broken.by(error);
        }
        let now = Instant::now();
        for told in self.told {
            self.flushes.end(now, &self.bounds);
            let result = result.as_ref().map(|_| ()).map_err(again);
            match told {
                Told::Raft(callback) => callback.io_completed(result),
                Told::Waiter(tx) => drop(tx.send(result)),
            }
        }
        self.flushes.leave();
    }
}

/// raft-log's view of our types. The user data is the durable index of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = StoredLogId;
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = Flushed;
    type UserData = u64;

    fn log_index(id: &StoredLogId) -> u64 {
        id.0.index
    }

    fn payload_size(payload: &StoredPayload) -> u64 {
        size_of(&payload.0) as u64
    }
}

/// About what an entry takes in memory and on disk.
pub fn size_of(payload: &Payload) -> usize {
    match payload {
        Payload::Normal(command) => command.0.len() + 64,
        _ => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn stored(value: &impl Encode) -> Vec<u8> {
        let mut bytes = Vec::new();
        let n = value.encode(&mut bytes).unwrap();
        assert_eq!(n, bytes.len());
        bytes
    }

    /// Every log on every disk is read with this: change nothing.
    #[test]
    fn what_stands_on_disk_is_pinned() {
        let id = LogId {
            leader_id: LeaderId {
                term: 1,
                node_id: 2,
            },
            index: 3,
        };
        let id_bytes = [
            [0, 0, 0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 0, 0, 2],
            [0, 0, 0, 0, 0, 0, 0, 3],
        ];
        assert_eq!(stored(&StoredLogId(id)), id_bytes.concat());
        let vote = [&id_bytes[0][..], &id_bytes[1], &[1]].concat();
        assert_eq!(stored(&StoredVote(Vote::new_committed(1, 2))), vote);
        let command = StoredPayload(Payload::Normal(Command(Bytes::from_static(b"hi"))));
        assert_eq!(stored(&command), b"\x01\0\0\0\x02hi");
        assert_eq!(stored(&StoredPayload(Payload::Blank)), [0; 5]);
        let member = Member {
            name: "n".into(),
            raft: "r".into(),
            grpc: "g".into(),
        };
        let membership = Membership::new(vec![[2].into()], BTreeMap::from([(2, member)])).unwrap();
        let json = r#"{"voters":[[2]],"members":{"2":{"name":"n","raft":"r","grpc":"g"}}}"#;
        let bytes = stored(&StoredPayload(Payload::Membership(membership)));
        assert_eq!(&bytes[5..], json.as_bytes());
        assert_eq!(&bytes[..5], [2, 0, 0, 0, json.len() as u8]);
        assert_eq!(StoredLogId::decode(&id_bytes.concat()[..]).unwrap().0, id);
    }

    #[test]
    fn payloads_of_every_size_come_back_and_cut_ones_are_errors() {
        for n in [0, 1, AT_ONCE_BYTES_MAX, AT_ONCE_BYTES_MAX + 1, 1 << 20] {
            let sent: Vec<u8> = (0..n).map(|i| i as u8).collect();
            let payload = Payload::Normal(Command(Bytes::from(sent.clone())));
            let mut bytes = stored(&StoredPayload(payload));
            bytes.extend_from_slice(b"next");
            let mut left = &bytes[..];
            let Payload::Normal(back) = StoredPayload::decode(&mut left).unwrap().0 else {
                panic!("a command became something else");
            };
            assert_eq!((back.0, left), (Bytes::from(sent), &b"next"[..]));
            let cut = StoredPayload::decode(&bytes[..bytes.len() - 5]);
            assert!(cut.is_err(), "{n}");
        }
        let lying = StoredPayload::decode(&b"\x01\xff\xff\xff\xffhi"[..]);
        assert_eq!(lying.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
