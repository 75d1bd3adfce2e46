//! What a watch brings, as byte vectors.
use super::*;

/// A field with bytes.
pub fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    crate::records::put_varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out
}

/// A field with a number.
pub fn varint(number: u8, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    crate::records::put_varint(&mut out, u64::from(number) << 3);
    crate::records::put_varint(&mut out, value);
    out
}

/// A record: kind, revision, size and digest of a content, mode, mtime, and a field of nobody's.
pub fn record(kind: u64, revision: u64, content: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let digest: Vec<u8> = if kind == 0 {
        Sha256::digest(content).to_vec()
    } else {
        Vec::new()
    };
    let size = if kind == 0 { content.len() as u64 } else { 0 };
    let target: &[u8] = if kind == 2 { content } else { b"" };
    [
        varint(1, kind),
        varint(2, revision),
        varint(5, size),
        bytes(6, &digest),
        varint(7, 0o640),
        [&[8 << 3 | 1][..], &77_i64.to_le_bytes()].concat(),
        bytes(9, target),
        bytes(10, b"node1"),
    ]
    .concat()
}

/// An item of a snapshot.
pub fn item(path: &str, record: &[u8]) -> Vec<u8> {
    let item = [bytes(1, path.as_bytes()), bytes(2, record)].concat();
    bytes(1, &item)
}

/// An event.
pub fn event(path: &str, record: &[u8], deleted: bool, revision: u64) -> Vec<u8> {
    let event = [
        varint(1, u64::from(deleted)),
        bytes(2, path.as_bytes()),
        bytes(3, record),
        varint(4, revision),
        bytes(6, b"data"),
        varint(7, 1),
    ];
    bytes(3, &event.concat())
}

#[test]
fn an_item_is_what_is_to_be_at_its_path() {
    let answer = item("d/f", &record(0, 9, b"abc"));
    let [entry] = &entries(&answer, 99).unwrap()[..] else {
        panic!("one entry");
    };
    let upsert = entry.upsert().unwrap();
    assert_eq!((&*upsert.path, upsert.kind), ("d/f", Kind::File));
    assert_eq!((upsert.version, upsert.size), (9, 3));
    assert_eq!((upsert.mode, upsert.mtime_ns), (0o640, 77));
    let (digest, size) = entry.content().unwrap();
    assert_eq!((upsert.digest, size), (Some(digest), 3));
    assert_eq!((entry.data, entry.is_gone()), (None, false));
}

#[test]
fn links_have_their_target_and_all_of_their_record_as_directories_do() {
    let (link, directory) = (record(2, 9, b"to/x"), record(1, 8, b""));
    let answer = [item("l", &link), item("d", &directory)].concat();
    let found = entries(&answer, 0).unwrap();
    let shown = found[0].upsert().unwrap();
    assert_eq!((shown.kind, shown.size), (Kind::Link, 4));
    assert_eq!(shown.place.as_deref(), Some(c"to/x"));
    assert_eq!(found[0].content(), None);
    assert_eq!(*shown.record, *link);
    assert_eq!(*found[1].upsert().unwrap().record, *directory);
}

#[test]
fn events_of_revisions_that_are_known_are_left_out() {
    let of = |revision| event("f", &record(0, revision, b"data"), false, revision);
    let answer = [of(7), of(8), of(9)].concat();
    let found = entries(&answer, 8).unwrap();
    assert_eq!((found.len(), found[0].upsert().unwrap().version), (1, 9));
    assert_eq!(found[0].data, Some(&b"data"[..]));
}

#[test]
fn what_was_deleted_or_is_there_for_its_children_alone_is_gone() {
    let implicit = [record(1, 9, b""), varint(14, 1)].concat();
    let answer = [
        event("f", &record(0, 9, b"x"), true, 9),
        event("d", &implicit, false, 9),
    ];
    for entry in entries(&answer.concat(), 0).unwrap() {
        assert!(entry.is_gone());
        assert_eq!(entry.content(), None);
    }
}

#[test]
fn a_record_is_the_same_again_but_for_the_order_of_its_fields() {
    let sorted = |record: &[u8]| {
        let (mut rest, mut fields) = (record, Vec::new());
        while !rest.is_empty() {
            let before = rest;
            field(&mut rest).unwrap();
            fields.push(before[..before.len() - rest.len()].to_vec());
        }
        fields.sort();
        fields
    };
    let record = record(0, 9, b"abc");
    let upsert = entries(&item("f", &record), 0).unwrap()[0]
        .upsert()
        .unwrap();
    assert!(upsert.record.len() + 44 < record.len());
    let again = unpacked(&upsert.record, 3, 77, &upsert.digest.unwrap());
    assert_eq!(sorted(&again), sorted(&record));
    assert_eq!(revision(&again), 9);
}

#[test]
fn what_is_no_answer_or_cannot_be_shown_is_refused() {
    let answer = item("d/f", &record(0, 9, b"abc"));
    for length in 1..answer.len() {
        assert_eq!(
            entries(&answer[..length], 0).err(),
            Some(Malformed),
            "{length}"
        );
    }
    for path in ["", "/a", "a//b", "a/..", ".dfs/x", "a\nb"] {
        let answer = item(path, &record(0, 9, b"abc"));
        assert!(
            entries(&answer, 0).unwrap()[0].upsert().is_err(),
            "{path:?}"
        );
    }
    let bad = [record(2, 9, b""), record(2, 9, b"a\0b"), record(3, 9, b"")];
    for record in bad {
        assert!(
            entries(&item("l", &record), 0).unwrap()[0]
                .upsert()
                .is_err()
        );
    }
}
