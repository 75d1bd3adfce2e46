//! The store's records of a new version of a file.
use super::{CHECKSUM_BYTES, HEAD_BYTES, INLINE, KIND_FILE, LARGE, put_bytes, put_varint};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

/// Tag of the kind in a Record.
const KIND_TAG: u8 = 0x08;
/// Flag of an event.
const DELETED: u8 = 1;
/// Flag of an event: the event before is in the index.
const PREVIOUS_INDEXED: u8 = 2;
/// Flag of an event: the event before names a large content.
const PREVIOUS_LARGE: u8 = 4;
/// Flag of an event: it names a large content, which is a file of its own.
const LARGE_EVENT: u8 = 8;
/// One version in so many of a key is in the index.
const HISTORY_STEP: u64 = 16;
pub const KIND_DIRECTORY: u8 = 1;
const NO_REQUEST: [u8; 16] = [0; 16];
const EVENT_HEAD_BYTES: usize = 43;

fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number);
    }
}

/// A value of `n`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Current<'a> {
    pub kind: u8,
    pub inline: bool,
    /// The content is a file of its own.
    pub large: bool,
    pub sub: u32,
    pub revision: u64,
    pub created: u64,
    pub number: u64,
    /// Bytes of a file's content; children of a directory.
    pub size: u64,
    pub digest: u128,
    pub record: &'a [u8],
    /// The content, if it is inline.
    pub data: &'a [u8],
}

impl Current<'_> {
    /// `None`: it is damaged.
    pub fn read<'a>(key: &[u8], value: &'a [u8]) -> Option<Current<'a>> {
        let (checksum, body) = value.split_at_checked(CHECKSUM_BYTES)?;
        if checksum != checksum_of(key, body) {
            return None;
        }
        let (head, rest) = body.split_first_chunk::<HEAD_BYTES>()?;
        let number = |at| u64::from_le_bytes(at_offset(head, at));
        let record_length = u32::from_le_bytes(at_offset(head, 54));
        let (record, data) = rest.split_at_checked(record_length as usize)?;
        Some(Current {
            kind: head[0],
            inline: head[1] & INLINE != 0,
            large: head[1] & LARGE != 0,
            sub: u32::from_le_bytes(at_offset(head, 2)),
            revision: number(6),
            created: number(14),
            number: number(22),
            size: number(30),
            digest: u128::from_le_bytes(at_offset(head, 38)),
            record,
            data,
        })
    }

    fn content_bytes(&self) -> i64 {
        if self.kind == KIND_FILE {
            self.size as i64
        } else {
            0
        }
    }

    /// What the event that replaces it says of it.
    fn flags_of_next(&self) -> u8 {
        let indexed = if self.indexed() { PREVIOUS_INDEXED } else { 0 };
        indexed | if self.large { PREVIOUS_LARGE } else { 0 }
    }

    fn indexed(&self) -> bool {
        is_indexed(self.number, self.kind == KIND_FILE && !self.inline)
    }
}

fn at_offset<const N: usize>(head: &[u8; HEAD_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

/// Whether the event of a version stands in the index. `alone`: it is the only place of a content.
fn is_indexed(number: u64, alone: bool) -> bool {
    alone || number.is_multiple_of(HISTORY_STEP)
}

/// A new version of a file: what is to be stored of it.
pub struct File<'a> {
    pub revision: u64,
    pub sub: u32,
    /// Its key in `n`.
    pub key: &'a [u8],
    pub time_ns: u64,
    pub mode: u32,
    pub mtime_ns: i64,
    pub node: &'a str,
    pub principal: &'a str,
    pub sha256: &'a [u8],
    /// 16 bytes, or none.
    pub request_id: &'a [u8],
    /// Further fields of its Record, encoded: what its writer named of owner and attributes.
    pub tail: &'a [u8],
    pub data: &'a [u8],
    /// The content stands in the current version too, not in history alone.
    pub inline: bool,
}

/// What there is to write, and to count.
#[derive(Debug, PartialEq, Eq)]
pub struct Packed {
    pub current: Vec<u8>,
    pub history_key: Vec<u8>,
    pub history: Vec<u8>,
    /// Empty: it is not in the index.
    pub index_key: Vec<u8>,
    /// To be added to the state hash, modulo 2^128.
    pub hash_change: u128,
    pub size_change: i64,
}

impl File<'_> {
    /// `old`: what it replaces, which is no directory.
    pub fn pack(&self, old: Option<&Current<'_>>) -> Packed {
        let created = old.map_or(self.revision, |o| o.created);
        let number = old.map_or(1, |o| o.number + 1);
        let record = self.record(created, number);
        let digest = xxh3_128(&[self.key, &record].concat()).to_be_bytes();
        let history_key = self.place(b"h");
        let index_key = if is_indexed(number, !self.inline) {
            self.place(&[b"i", &self.key[1..], b"\0\0"].concat())
        } else {
            Vec::new()
        };
        let added = u128::from_le_bytes(digest);
        Packed {
            current: self.current(created, number, &record, &digest),
            history: self.event(&history_key, old, &record),
            history_key,
            index_key,
            hash_change: added.wrapping_sub(old.map_or(0, |o| o.digest)),
            size_change: self.data.len() as i64 - old.map_or(0, Current::content_bytes),
        }
    }

    /// The public Record, as protobuf encodes it.
    fn record(&self, created: u64, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.tail.len());
        put_number(&mut out, 0x10, self.revision);
        put_number(&mut out, 0x18, created);
        put_number(&mut out, 0x20, number);
        put_number(&mut out, 0x28, self.data.len() as u64);
        put_bytes(&mut out, 0x32, self.sha256);
        put_number(&mut out, 0x38, self.mode.into());
        if self.mtime_ns != 0 {
            out.push(0x41);
            out.extend_from_slice(&self.mtime_ns.to_le_bytes());
        }
        put_bytes(&mut out, 0x52, self.node.as_bytes());
        put_bytes(&mut out, 0x5a, self.principal.as_bytes());
        if self.time_ns != 0 {
            out.push(0x61);
            out.extend_from_slice(&self.time_ns.to_le_bytes());
        }
        put_bytes(&mut out, 0x6a, self.request_id);
        out.extend_from_slice(self.tail);
        out
    }

    /// A store key that ends with the place of the event.
    fn place(&self, start: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(start.len() + 12);
        key.extend_from_slice(start);
        key.extend_from_slice(&self.revision.to_be_bytes());
        key.extend_from_slice(&self.sub.to_be_bytes());
        key
    }

    /// The value in `n`: head, record, and the content if it is inline.
    fn current(&self, created: u64, number: u64, record: &[u8], digest: &[u8; 16]) -> Vec<u8> {
        let data = if self.inline { self.data } else { b"" };
        sealed(self.key, HEAD_BYTES + record.len() + data.len(), |out| {
            out.extend_from_slice(&[KIND_FILE, if self.inline { INLINE } else { 0 }]);
            out.extend_from_slice(&self.sub.to_le_bytes());
            for number in [self.revision, created, number, self.data.len() as u64] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(digest);
            out.extend_from_slice(&(record.len() as u32).to_le_bytes());
            out.extend_from_slice(record);
            out.extend_from_slice(data);
        })
    }

    /// The value in `h`: head, path, record, content.
    fn event(&self, key: &[u8], old: Option<&Current<'_>>, record: &[u8]) -> Vec<u8> {
        let path = &self.key[1..];
        let length = EVENT_HEAD_BYTES + path.len() + record.len() + self.data.len();
        sealed(key, length, |out| {
            out.push(old.map_or(0, Current::flags_of_next));
            out.extend_from_slice(&old.map_or(0, |o| o.sub).to_le_bytes());
            out.extend_from_slice(&old.map_or(0, |o| o.revision).to_le_bytes());
            out.extend_from_slice(&self.time_ns.to_le_bytes());
            let request_id = self.request_id;
            out.extend_from_slice(if request_id.is_empty() {
                &NO_REQUEST
            } else {
                request_id
            });
            out.extend_from_slice(&(path.len() as u16).to_le_bytes());
            out.extend_from_slice(&(record.len() as u32).to_le_bytes());
            out.extend_from_slice(path);
            out.extend_from_slice(record);
            out.extend_from_slice(self.data);
        })
    }
}

/// What an event of history is about.
pub struct Event<'a> {
    pub deleted: bool,
    /// Its content is a file of its own, of which nothing is known here.
    pub large: bool,
    /// Revision that it replaced.
    pub previous: u64,
    pub path: &'a [u8],
    pub record: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> Event<'a> {
    /// Takes a value of `h` apart; its checksum is not looked at.
    pub fn read(value: &'a [u8]) -> Option<Event<'a>> {
        let (head, rest) = value
            .get(CHECKSUM_BYTES..)?
            .split_first_chunk::<EVENT_HEAD_BYTES>()?;
        let previous = u64::from_le_bytes(*head[5..].first_chunk()?);
        let path_length = u16::from_le_bytes([head[37], head[38]]);
        let record_length = u32::from_le_bytes([head[39], head[40], head[41], head[42]]);
        let (path, rest) = rest.split_at_checked(path_length.into())?;
        let (record, data) = rest.split_at_checked(record_length as usize)?;
        Some(Event {
            deleted: head[0] & DELETED != 0,
            large: head[0] & LARGE_EVENT != 0,
            previous,
            path,
            record,
            data,
        })
    }

    /// What is in the file that it has made, if that stands here.
    pub fn content(&self) -> Option<&'a [u8]> {
        let stands_here = !self.deleted && !self.large && self.is_file();
        stands_here.then_some(self.data)
    }

    /// Its record has no kind, which stands for the kind of files.
    pub fn is_file(&self) -> bool {
        self.record.first() != Some(&KIND_TAG)
    }
}

/// The key of an event in `h`.
pub fn event_key(revision: u64, sub: u32) -> Vec<u8> {
    [b"h", &revision.to_be_bytes()[..], &sub.to_be_bytes()].concat()
}

/// The revision and the number in it of an event, out of that key.
pub fn place_of(event_key: &[u8]) -> Option<(u64, u32)> {
    let (revision, sub) = event_key.get(1..)?.split_first_chunk()?;
    let sub = sub.try_into().ok()?;
    Some((u64::from_be_bytes(*revision), u32::from_be_bytes(sub)))
}

pub fn checksum_of(key: &[u8], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    xxh3_64_with_seed(body, xxh3_64(key)).to_be_bytes()
}

/// A stored value: the checksum, seeded by its key, and the body that `write` makes.
fn sealed(key: &[u8], length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKSUM_BYTES + length);
    out.extend_from_slice(&[0; CHECKSUM_BYTES]);
    write(&mut out);
    let checksum = checksum_of(key, &out[CHECKSUM_BYTES..]);
    out[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    out
}

#[cfg(test)]
impl<'a> File<'a> {
    /// Some version of a file, for tests.
    pub fn sample(key: &'a [u8], data: &'a [u8], inline: bool) -> File<'a> {
        File {
            revision: 9,
            sub: 2,
            key,
            time_ns: 5,
            mode: 0o644,
            mtime_ns: 5,
            node: "a",
            principal: "",
            sha256: &[7; 32],
            request_id: b"",
            tail: b"",
            data,
            inline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(data: &[u8]) -> File<'_> {
        File::sample(b"nd\0f", data, true)
    }

    #[test]
    fn what_was_packed_is_read_as_the_version_before() {
        let first = file(b"abc").pack(None);
        assert_eq!((first.index_key.len(), first.size_change), (0, 3));
        let event = Event::read(&first.history).unwrap();
        assert_eq!((event.path, event.data), (&b"d\0f"[..], &b"abc"[..]));
        assert!(event.is_file() && !event.deleted);
        let old = Current::read(b"nd\0f", &first.current).unwrap();
        let expected = Current {
            kind: KIND_FILE,
            inline: true,
            large: false,
            revision: 9,
            sub: 2,
            created: 9,
            number: 1,
            size: 3,
            digest: first.hash_change,
            record: event.record,
            data: b"abc",
        };
        assert_eq!(old, expected);
        assert!(!old.indexed());
        let second = file(b"x").pack(Some(&old));
        assert_eq!(second.size_change, -2);
        let sum = first.hash_change.wrapping_add(second.hash_change);
        assert_eq!(
            Current::read(b"nd\0f", &second.current).unwrap().digest,
            sum,
            "the state hash is that of the newer version alone"
        );
    }

    #[test]
    fn damage_is_noticed() {
        let mut value = file(b"abc").pack(None).current;
        assert_eq!(Current::read(b"nd\0g", &value), None, "under another key");
        for cut in 0..value.len() {
            assert_eq!(Current::read(b"nd\0f", &value[..cut]), None);
        }
        value[CHECKSUM_BYTES] ^= 1;
        assert_eq!(Current::read(b"nd\0f", &value), None);
    }

    #[test]
    fn one_version_in_sixteen_and_every_large_one_is_in_the_index() {
        let mut before = file(b"").pack(None).current;
        for number in 2..40 {
            let old = Current::read(b"nd\0f", &before).unwrap();
            let packed = file(b"").pack(Some(&old));
            assert_eq!(packed.index_key.is_empty(), number % 16 != 0, "{number}");
            let flags = packed.history[CHECKSUM_BYTES];
            assert_eq!(flags == PREVIOUS_INDEXED, (number - 1) % 16 == 0);
            before = packed.current;
        }
        let large = File {
            inline: false,
            ..file(b"")
        };
        assert!(!large.pack(None).index_key.is_empty());
    }
}
