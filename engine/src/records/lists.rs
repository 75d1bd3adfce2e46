//! Lists, from stored records to the items of a ListResponse. Pure.
//!
//! What is damaged, and content that stands in history alone, is left to whoever knows all cases.
//! Tests in Python compare with the generated code and `store/`.
use super::file::{Current, KIND_DIRECTORY};
use super::{KIND_FILE, put_bytes, put_varint};

const ITEM_TAG: u8 = 0x0a;
const KEY_TAG: u8 = 0x0a;
const RECORD_TAG: u8 = 0x12;
const DATA_TAG: u8 = 0x1a;
const HAS_DATA: [u8; 2] = [0x20, 1];

/// What is wanted, and how much there is room for.
pub struct Wanted {
    /// Not only direct children.
    pub recursive: bool,
    /// Content of files up to here; 0 = none.
    pub data_bytes_max: u64,
    /// And of greater revisions than this only.
    pub data_after: u64,
    pub items_max: usize,
    /// Of keys, records and content.
    pub bytes_max: usize,
    /// The first item may be larger than `bytes_max`: it travels alone.
    pub first: bool,
}

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the items, or below something that is.
    Yes,
    /// There is no room for it.
    Full,
    /// Not seen: damaged, or its content is elsewhere.
    Unusual,
}

/// A part of an answer, while records are added in the order of their keys.
pub struct Items {
    wanted: Wanted,
    /// Encoded, as a ListResponse holds them.
    pub encoded: Vec<u8>,
    /// Of keys, records and content.
    pub bytes: usize,
    count: usize,
    /// What starts so is below a child: not shown.
    below: Vec<u8>,
}

impl Items {
    pub fn new(wanted: Wanted) -> Items {
        Items {
            wanted,
            encoded: Vec::new(),
            bytes: 0,
            count: 0,
            below: Vec::new(),
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds a record of `n`.
    pub fn push(&mut self, store_key: &[u8], value: &[u8]) -> Taken {
        if !self.below.is_empty() && store_key.starts_with(&self.below) {
            return Taken::Yes;
        }
        if self.count == self.wanted.items_max {
            return Taken::Full;
        }
        let Some(current) = Current::read(store_key, value) else {
            return Taken::Unusual;
        };
        let most = self.wanted.data_bytes_max;
        let small = most > 0 && current.kind == KIND_FILE && current.size <= most;
        let has_data = small && current.revision > self.wanted.data_after;
        if has_data && !current.inline {
            return Taken::Unusual;
        }
        let data = if has_data { current.data } else { b"" };
        let path = &store_key[1..];
        let bytes = path.len() + current.record.len() + data.len();
        let alone = self.wanted.first && self.count == 0;
        if !alone && self.bytes + bytes > self.wanted.bytes_max {
            return Taken::Full;
        }
        self.bytes += bytes;
        self.count += 1;
        self.add(path, current.record, data, has_data);
        if !self.wanted.recursive && current.kind == KIND_DIRECTORY && current.size > 0 {
            self.below = [store_key, b"\0"].concat();
        }
        Taken::Yes
    }

    fn add(&mut self, path: &[u8], record: &[u8], data: &[u8], has_data: bool) {
        let has_data: &[u8] = if has_data { &HAS_DATA } else { b"" };
        let content = if data.is_empty() {
            0
        } else {
            field_bytes(data)
        };
        let length = field_bytes(path) + field_bytes(record) + content + has_data.len();
        let out = &mut self.encoded;
        out.push(ITEM_TAG);
        put_varint(out, length as u64);
        out.push(KEY_TAG);
        put_varint(out, path.len() as u64);
        out.extend(path.iter().map(|b| if *b == 0 { b'/' } else { *b }));
        out.push(RECORD_TAG);
        put_varint(out, record.len() as u64);
        out.extend_from_slice(record);
        put_bytes(out, DATA_TAG, data);
        out.extend_from_slice(has_data);
    }

    /// Where to go on when the records end at `last`: not at the next one, if that is below a
    /// child.
    pub fn beyond(&self, last: &[u8]) -> Option<Vec<u8>> {
        let child = self.below.strip_suffix(b"\0")?;
        let inside = last == child || last.starts_with(&self.below);
        inside.then(|| [child, b"\x01"].concat())
    }
}

/// Of a field with a small number: tag, length, content.
fn field_bytes(content: &[u8]) -> usize {
    let mut length_bytes = 1;
    let mut rest = content.len() >> 7;
    while rest > 0 {
        length_bytes += 1;
        rest >>= 7;
    }
    1 + length_bytes + content.len()
}

#[cfg(test)]
mod tests {
    use super::super::file::File;
    use super::*;

    fn stored(key: &'static [u8], data: &[u8], inline: bool) -> Vec<u8> {
        let file = File::sample(key, data, inline);
        file.pack(None).current
    }

    fn wanted() -> Wanted {
        Wanted {
            recursive: true,
            data_bytes_max: 10,
            data_after: 0,
            items_max: 9,
            bytes_max: 1 << 20,
            first: true,
        }
    }

    #[test]
    fn an_item_is_key_record_and_content() {
        let value = stored(b"nd\0x", b"vv", true);
        let record = Current::read(b"nd\0x", &value).unwrap().record.to_vec();
        let mut items = Items::new(wanted());
        assert_eq!(items.push(b"nd\0x", &value), Taken::Yes);
        let mut expected = b"\x0a\x03d/x\x12".to_vec();
        expected.push(record.len() as u8);
        expected.extend_from_slice(&record);
        expected.extend_from_slice(b"\x1a\x02vv\x20\x01");
        let head = [0x0a, expected.len() as u8];
        assert_eq!(items.encoded, [&head[..], &expected].concat());
        assert_eq!((items.count(), items.bytes), (1, 5 + record.len()));
    }

    #[test]
    fn content_that_the_caller_has_is_left_out_wherever_it_is() {
        let value = stored(b"nx", b"vv", true);
        let revision = Current::read(b"nx", &value).unwrap().revision;
        let after = |data_after, value: &[u8]| {
            let mut items = Items::new(Wanted {
                data_after,
                ..wanted()
            });
            let taken = items.push(b"nx", value);
            (taken, items.encoded.ends_with(&HAS_DATA))
        };
        assert!(revision > 0);
        assert_eq!(after(revision - 1, &value), (Taken::Yes, true));
        assert_eq!(after(revision, &value), (Taken::Yes, false));
        let elsewhere = stored(b"nx", b"vv", false);
        assert_eq!(after(revision - 1, &elsewhere), (Taken::Unusual, false));
        assert_eq!(after(revision, &elsewhere), (Taken::Yes, false));
    }

    #[test]
    fn what_is_damaged_or_elsewhere_is_left_to_others() {
        let value = stored(b"nx", b"vv", true);
        let mut items = Items::new(wanted());
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert_eq!(items.push(b"nx", &damaged), Taken::Unusual, "{at}");
            assert_eq!(items.push(b"nx", &value[..at]), Taken::Unusual, "{at}");
        }
        assert_eq!(items.push(b"ny", &value), Taken::Unusual);
        let elsewhere = stored(b"nx", b"vv", false);
        assert_eq!(items.push(b"nx", &elsewhere), Taken::Unusual);
        assert_eq!((items.count(), items.encoded.len()), (0, 0));
    }

    #[test]
    fn a_list_that_is_not_recursive_passes_over_what_is_below_a_child() {
        let mut items = Items::new(Wanted {
            recursive: false,
            ..wanted()
        });
        items.below = b"nd\0".to_vec();
        for key in [&b"nd"[..], b"nd\0a", b"nd\0\xff"] {
            assert_eq!(items.beyond(key).unwrap(), b"nd\x01");
        }
        assert_eq!(items.beyond(b"nd-"), None);
        assert_eq!(items.push(b"nd\0a", b"not even looked at"), Taken::Yes);
        assert_eq!(items.push(b"nd-", &stored(b"nd-", b"", true)), Taken::Yes);
        assert_eq!(items.count(), 1);
        assert_eq!(Items::new(wanted()).beyond(b"nd"), None);
    }

    #[test]
    fn there_is_room_for_so_many_items_and_bytes_or_one_larger_item() {
        let value = stored(b"nx", b"vv", true);
        let limits = [(1, 1 << 20, true), (9, 1, true), (9, 1, false)];
        for (items_max, bytes_max, first) in limits {
            let mut items = Items::new(Wanted {
                items_max,
                bytes_max,
                first,
                ..wanted()
            });
            if first {
                assert_eq!(items.push(b"nx", &value), Taken::Yes);
            }
            assert_eq!(items.push(b"nx", &value), Taken::Full);
            assert_eq!(items.count(), usize::from(first));
        }
    }
}
