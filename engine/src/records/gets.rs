//! Reads of small files, from the request's bytes to the answer's. Pure.
//!
//! `None` everywhere means: unusual, missing or damaged; whoever knows all cases has to look at it,
//! and to say what is wrong. Tests in Python compare with the generated code and `store/`.
use super::file::{Current, Event, checksum_of, event_key};
use super::{CHECKSUM_BYTES, KIND_FILE, current_key, put_bytes, put_varint};
use crate::protobuf::{Value, field};

const KEY_TAG: u8 = 0x0a;
const DATA_TAG: u8 = 0x0a;
const RECORD_TAG: u8 = 0x12;

/// The encoded GetRequest for a key and nothing else, as every client encodes it.
pub fn get_request(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 4);
    put_bytes(&mut out, KEY_TAG, key);
    out
}

/// The store key that a GetRequest is about, when it is of the form of `get_request`.
pub fn plain_get(request: &[u8]) -> Option<Vec<u8>> {
    let mut rest = request;
    let (1, Value::Bytes(key)) = field(&mut rest)? else {
        return None;
    };
    // '/' stands as NUL in store keys: with a NUL another key would be meant.
    let usual = !key.is_empty() && !key.contains(&0) && std::str::from_utf8(key).is_ok();
    if !usual || !rest.is_empty() || request != get_request(key) {
        return None;
    }
    Some(current_key(key))
}

/// The GetResponse for a value of `n`, if it is a file that has its content there.
pub fn get_answer(store_key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let file = Current::read(store_key, value)?;
    let whole = file.kind == KIND_FILE && file.inline && file.data.len() as u64 == file.size;
    whole.then(|| answer(file.record, file.data))
}

/// Where in `h` the content stands, for a value of `n` that is a file without it and so small.
pub fn content_key(store_key: &[u8], value: &[u8], data_bytes_max: usize) -> Option<Vec<u8>> {
    let file = Current::read(store_key, value)?;
    let stored = file.kind == KIND_FILE && !file.inline && !file.large;
    let there = stored && file.size <= data_bytes_max as u64;
    there.then(|| event_key(file.revision, file.sub))
}

/// The GetResponse for such a file, from the value in `h`.
pub fn content_answer(store_key: &[u8], content_key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (checksum, body) = value.split_at_checked(CHECKSUM_BYTES)?;
    if checksum != checksum_of(content_key, body) {
        return None;
    }
    let event = Event::read(value)?;
    let its = !event.deleted && event.is_file() && event.path == &store_key[1..];
    its.then(|| answer(event.record, event.data))
}

/// The GetResponse for the file that an event has made, if its content is small.
pub fn changed_answer(event: &Event<'_>, data_bytes_max: usize) -> Option<Vec<u8>> {
    let small = event.content().filter(|c| c.len() <= data_bytes_max);
    small.map(|content| answer(event.record, content))
}

fn answer(record: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.len() + data.len() + 8);
    put_bytes(&mut out, DATA_TAG, data);
    out.push(RECORD_TAG);
    put_varint(&mut out, record.len() as u64);
    out.extend_from_slice(record);
    out
}

#[cfg(test)]
mod tests {
    use super::super::HEAD_BYTES;
    use super::super::file::File;
    use super::*;

    fn file(data: &[u8], inline: bool) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let file = File::sample(b"nk\0x", data, inline);
        let value = file.pack(None).current;
        let at = CHECKSUM_BYTES + HEAD_BYTES;
        let record = value[at..value.len() - if inline { data.len() } else { 0 }].to_vec();
        (file.key.to_vec(), value, record)
    }

    #[test]
    fn a_plain_get_is_answered() {
        let (key, value, record) = file(b"vv", true);
        assert_eq!(plain_get(b"\x0a\x03k/x").unwrap(), key);
        let mut expected = b"\x0a\x02vv\x12".to_vec();
        expected.push(record.len() as u8);
        expected.extend_from_slice(&record);
        assert_eq!(get_answer(&key, &value).unwrap(), expected);
        let (key, value, _) = file(b"", true);
        assert_eq!(get_answer(&key, &value).unwrap()[0], RECORD_TAG);
    }

    #[test]
    fn everything_unusual_is_left_to_others() {
        let requests: [&[u8]; 10] = [
            b"",
            b"\x0a\x00",           // no key
            b"\x0a\x01\x00",       // a NUL
            b"\x0a\x01\xff",       // no UTF-8
            b"\x0a\x02k",          // cut off
            b"\x0a\x81\x00k",      // a length that nobody writes so
            b"\x0a\x01k\x0a\x01k", // twice
            b"\x0a\x01k\x10\x01",  // a revision
            b"\x0a\x01k\x18\x01",  // a consistency
            b"\x12\x01k",          // another field
        ];
        for request in requests {
            assert_eq!(plain_get(request), None, "{request:?}");
        }
    }

    #[test]
    fn what_is_damaged_or_elsewhere_is_left_to_others() {
        let (key, value, _) = file(b"vv", true);
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert_eq!(get_answer(&key, &damaged), None, "{at}");
            assert_eq!(get_answer(&key, &value[..at]), None, "{at}");
        }
        assert_eq!(get_answer(b"nother", &value), None);
        let (key, value, _) = file(b"vv", false);
        assert_eq!(get_answer(&key, &value), None);
    }
}
