//! Changes, from what history keeps of them to the events of a WatchResponse or HistoryResponse.
//! Pure. Tests in Python compare with the generated code.
use super::{put_bytes, put_varint};
use crate::protobuf::{Value, field};

const KEY_TAG: u8 = 0x12;
const RECORD_TAG: u8 = 0x1a;
const REVISION_TAG: u8 = 0x20;
const PREVIOUS_TAG: u8 = 0x28;
const DATA_TAG: u8 = 0x32;
const SUB_TAG: u8 = 0x40;
const DELETED: [u8; 2] = [0x08, 1];
const HAS_DATA: [u8; 2] = [0x38, 1];

/// A change of one key: as `dfs.store.Change`.
pub struct Change<'a> {
    pub revision: u64,
    pub sub: u32,
    pub deleted: bool,
    pub key: &'a str,
    pub record: &'a [u8],
    pub data: Option<&'a [u8]>,
    pub previous: u64,
}

/// Adds the event as field `number` of an answer. `data_bytes_max`: content of files up to here;
/// 0 = none. Returns how much content came along; `None`: the record is none.
pub fn put_event(
    out: &mut Vec<u8>,
    number: u64,
    change: &Change<'_>,
    data_bytes_max: u64,
) -> Option<u64> {
    let data = match change.data {
        Some(data) if data_bytes_max > 0 && !change.deleted => {
            let (kind, size) = kind_and_size(change.record)?;
            (kind == 0 && size <= data_bytes_max).then_some(data)
        }
        _ => None,
    };
    let content = data.unwrap_or(b"");
    let mut event = Vec::with_capacity(change.key.len() + change.record.len() + 48);
    if change.deleted {
        event.extend_from_slice(&DELETED);
    }
    put_bytes(&mut event, KEY_TAG, change.key.as_bytes());
    put_bytes(&mut event, RECORD_TAG, change.record);
    put_number(&mut event, REVISION_TAG, change.revision);
    put_number(&mut event, PREVIOUS_TAG, change.previous);
    let mut behind = Vec::with_capacity(8);
    if data.is_some() {
        behind.extend_from_slice(&HAS_DATA);
    }
    put_number(&mut behind, SUB_TAG, change.sub.into());
    if !content.is_empty() {
        event.push(DATA_TAG);
        put_varint(&mut event, content.len() as u64);
    }
    put_varint(out, number << 3 | 2);
    put_varint(out, (event.len() + content.len() + behind.len()) as u64);
    for part in [&event, content, &behind] {
        out.extend_from_slice(part);
    }
    Some(content.len() as u64)
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number > 0 {
        out.push(tag);
        put_varint(out, number);
    }
}

/// Of an encoded record.
fn kind_and_size(mut record: &[u8]) -> Option<(u64, u64)> {
    let (mut kind, mut size) = (0, 0);
    while !record.is_empty() {
        match field(&mut record)? {
            (1, Value::Varint(number)) => kind = number,
            (5, Value::Varint(number)) => size = number,
            _ => {}
        }
    }
    Some((kind, size))
}
