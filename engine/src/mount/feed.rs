//! What a node tells of its tree, from the encoded answers of a watch to changes. Pure.
use super::change::Upsert;
use super::content::Digest;
use super::node::{Kind, NOBODY};
use super::tree::RESERVED;
use crate::protobuf::{Value, field};
use std::ffi::CString;

/// Limits of keys, the same as in `dfs.limits` and `dfs.paths`: a name that breaks them would make
/// the kernel refuse the whole directory.
const KEY_BYTES_MAX: usize = 1_024;
const COMPONENT_BYTES_MAX: usize = 255;
const TARGET_BYTES_MAX: usize = 4_095;

/// An item of a snapshot, or an event.
#[derive(Default)]
pub struct Entry<'a> {
    pub path: &'a str,
    record: Record<'a>,
    deleted: bool,
    /// The content, if it came along.
    pub data: Option<&'a [u8]>,
}

/// The fields of a record that the tree looks at, and the record itself.
#[derive(Default)]
struct Record<'a> {
    encoded: &'a [u8],
    kind: u64,
    revision: u64,
    size: u64,
    sha256: &'a [u8],
    mode: u64,
    mtime_ns: u64,
    target: &'a [u8],
    implicit: bool,
    uid: u32,
    gid: u32,
}

/// The answer is no answer of a watch.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// What an answer tells, in its order; no events up to revision `after`.
pub fn entries(mut answer: &[u8], after: u64) -> Result<Vec<Entry<'_>>, Malformed> {
    let mut found = Vec::new();
    while !answer.is_empty() {
        match field(&mut answer).ok_or(Malformed)? {
            (1, Value::Bytes(item)) => found.push(read_item(item)?),
            (3, Value::Bytes(event)) => found.extend(read_event(event, after)?),
            _ => {}
        }
    }
    Ok(found)
}

fn read_item(mut item: &[u8]) -> Result<Entry<'_>, Malformed> {
    let (mut entry, mut data, mut has_data) = (Entry::default(), &b""[..], false);
    while !item.is_empty() {
        match field(&mut item).ok_or(Malformed)? {
            (1, Value::Bytes(key)) => entry.path = text(key)?,
            (2, Value::Bytes(record)) => entry.record = read_record(record)?,
            (3, Value::Bytes(bytes)) => data = bytes,
            (4, Value::Varint(flag)) => has_data = flag != 0,
            _ => {}
        }
    }
    entry.data = has_data.then_some(data);
    Ok(entry)
}

fn read_event(mut event: &[u8], after: u64) -> Result<Option<Entry<'_>>, Malformed> {
    let (mut entry, mut data, mut has_data) = (Entry::default(), &b""[..], false);
    let mut revision = 0;
    while !event.is_empty() {
        match field(&mut event).ok_or(Malformed)? {
            (1, Value::Varint(kind)) => entry.deleted = kind == 1,
            (2, Value::Bytes(key)) => entry.path = text(key)?,
            (3, Value::Bytes(record)) => entry.record = read_record(record)?,
            (4, Value::Varint(number)) => revision = number,
            (6, Value::Bytes(bytes)) => data = bytes,
            (7, Value::Varint(flag)) => has_data = flag != 0,
            _ => {}
        }
    }
    entry.data = has_data.then_some(data);
    Ok((revision > after).then_some(entry))
}

fn read_record(encoded: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut record = Record {
        encoded,
        uid: NOBODY,
        gid: NOBODY,
        ..Record::default()
    };
    let mut rest = encoded;
    while !rest.is_empty() {
        match field(&mut rest).ok_or(Malformed)? {
            (1, Value::Varint(kind)) => record.kind = kind,
            (2, Value::Varint(revision)) => record.revision = revision,
            (5, Value::Varint(size)) => record.size = size,
            (6, Value::Bytes(sha256)) => record.sha256 = sha256,
            (7, Value::Varint(mode)) => record.mode = mode,
            (8, Value::Fixed64(mtime_ns)) => record.mtime_ns = mtime_ns,
            (9, Value::Bytes(target)) => record.target = target,
            (14, Value::Varint(implicit)) => record.implicit = implicit != 0,
            (17, Value::Varint(uid)) => record.uid = uid as u32,
            (18, Value::Varint(gid)) => record.gid = gid as u32,
            _ => {}
        }
    }
    Ok(record)
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

impl Entry<'_> {
    /// Nothing is committed under the path any more.
    pub fn is_gone(&self) -> bool {
        self.deleted || self.record.implicit
    }

    /// Digest and size of the content of a file.
    pub fn content(&self) -> Option<(Digest, u64)> {
        if self.is_gone() || self.record.kind != 0 {
            return None;
        }
        let digest = self.record.sha256.try_into().ok()?;
        Some((digest, self.record.size))
    }

    /// What is to be at the path. Err: why the mount cannot show it.
    pub fn upsert(&self) -> Result<Upsert, &'static str> {
        check_path(self.path)?;
        let record = &self.record;
        let digest = self.content().map(|(digest, _)| digest);
        let (kind, size, place) = match record.kind {
            0 => (Kind::File, record.size, None),
            1 => (Kind::Directory, 0, None),
            2 => {
                let target = CString::new(record.target).map_err(|_| BAD_TARGET)?;
                check_target(target.count_bytes())?;
                (Kind::Link, record.target.len() as u64, Some(target.into()))
            }
            _ => return Err("its kind is of a newer version"),
        };
        Ok(Upsert {
            path: self.path.to_owned(),
            kind,
            size,
            mode: record.mode as u32,
            mtime_ns: record.mtime_ns as i64,
            uid: record.uid,
            gid: record.gid,
            version: record.revision,
            place,
            digest,
            record: packed(record.encoded, digest),
        })
    }
}

const BAD_TARGET: &str = "the target of a symlink is 1 to 4,095 bytes";

/// Of a symlink's target, in bytes without a NUL.
pub fn check_target(bytes: usize) -> Result<(), &'static str> {
    if (1..=TARGET_BYTES_MAX).contains(&bytes) {
        Ok(())
    } else {
        Err(BAD_TARGET)
    }
}

/// The record of a file without what its node has anyway, for `unpacked`. Of anything else, all of
/// it.
fn packed(record: &[u8], digest: Option<Digest>) -> Box<[u8]> {
    if digest.is_none() {
        return record.into();
    }
    let mut kept = Vec::with_capacity(record.len());
    let mut rest = record;
    while !rest.is_empty() {
        let before = rest;
        let Some((number, _)) = field(&mut rest) else {
            break; // It was read before, and so is whole.
        };
        if !matches!(number, 5 | 6 | 8) {
            kept.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    kept.into()
}

/// The record of a file again; protobuf does not care for the order of fields.
pub fn unpacked(kept: &[u8], size: u64, mtime_ns: i64, digest: &Digest) -> Vec<u8> {
    let mut record = Vec::with_capacity(kept.len() + 56);
    record.extend_from_slice(kept);
    record.push(5 << 3);
    crate::records::put_varint(&mut record, size);
    record.extend_from_slice(&[6 << 3 | 2, digest.len() as u8]);
    record.extend_from_slice(digest);
    record.push(8 << 3 | 1);
    record.extend_from_slice(&mtime_ns.to_le_bytes());
    record
}

/// The revision of an encoded record.
pub fn revision(record: &[u8]) -> u64 {
    read_record(record).map_or(0, |record| record.revision)
}

/// Err: why the mount can show nothing under it.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > KEY_BYTES_MAX {
        return Err("longer than 1,024 bytes");
    }
    if path.chars().any(char::is_control) {
        return Err("has a control character");
    }
    if path.split('/').next() == Some(RESERVED) {
        return Err("begins with the reserved .dfs");
    }
    for name in path.split('/') {
        match name {
            "" => return Err("has an empty component"),
            "." | ".." => return Err("has the component . or .."),
            _ if name.len() > COMPONENT_BYTES_MAX => return Err("has a component over 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests/feed.rs"]
pub mod tests;
