//! Changes, from what history keeps of them to the events of a WatchResponse or HistoryResponse.
//! Pure. Tests in Python compare with the generated code.
use super::put_varint;

const KEY_TAG: u8 = 0x12;
const RECORD_TAG: u8 = 0x1a;
const REVISION_TAG: u8 = 0x20;
const PREVIOUS_TAG: u8 = 0x28;
const DATA_TAG: u8 = 0x32;
const SUB_TAG: u8 = 0x40;
const DELETED: [u8; 2] = [0x08, 1];
const HAS_DATA: [u8; 2] = [0x38, 1];

/// A change of one key, without content.
pub struct Change<'a> {
    pub revision: u64,
    pub sub: u32,
    pub deleted: bool,
    /// The key, with '/' or, as the store has it, with NUL in its place.
    pub path: &'a [u8],
    pub record: &'a [u8],
    pub previous: u64,
}

/// An answer under way. Contents are most of it, and are copied once: when its length is known.
#[derive(Default)]
pub struct Answer<'a> {
    /// All but the contents.
    rest: Vec<u8>,
    /// Each with its place in `rest`, ascending.
    contents: Vec<(usize, &'a [u8])>,
    content_bytes: usize,
}

impl<'a> Answer<'a> {
    /// Adds the event as field `number`, with this content if it is to come along.
    pub fn put_event(&mut self, number: u64, change: &Change<'_>, content: Option<&'a [u8]>) {
        let data = content.unwrap_or(b"");
        let mut event = Vec::with_capacity(change.path.len() + change.record.len() + 48);
        if change.deleted {
            event.extend_from_slice(&DELETED);
        }
        put_length(&mut event, KEY_TAG, change.path);
        let key = change.path.iter().map(|b| if *b == 0 { b'/' } else { *b });
        event.extend(key);
        put_length(&mut event, RECORD_TAG, change.record);
        event.extend_from_slice(change.record);
        put_number(&mut event, REVISION_TAG, change.revision);
        put_number(&mut event, PREVIOUS_TAG, change.previous);
        put_length(&mut event, DATA_TAG, data);
        let before = event.len();
        if content.is_some() {
            event.extend_from_slice(&HAS_DATA);
        }
        put_number(&mut event, SUB_TAG, change.sub.into());
        put_varint(&mut self.rest, number << 3 | 2);
        put_varint(&mut self.rest, (event.len() + data.len()) as u64);
        self.contents.push((self.rest.len() + before, data));
        self.content_bytes += data.len();
        self.rest.extend_from_slice(&event);
    }

    /// Adds fields that are encoded already.
    pub fn put(&mut self, fields: &[u8]) {
        self.rest.extend_from_slice(fields);
    }

    pub fn bytes(&self) -> usize {
        self.rest.len() + self.content_bytes
    }

    /// `out`: as long as `bytes` says.
    pub fn write(&self, mut out: &mut [u8]) {
        let mut add = |part: &[u8]| {
            let (place, behind) = std::mem::take(&mut out).split_at_mut(part.len());
            place.copy_from_slice(part);
            out = behind;
        };
        let mut done = 0;
        for (place, content) in &self.contents {
            add(&self.rest[done..*place]);
            add(content);
            done = *place;
        }
        add(&self.rest[done..]);
    }
}

/// The head of a field that holds these bytes; nothing if there are none.
fn put_length(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    put_number(out, tag, bytes.len() as u64);
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number > 0 {
        out.push(tag);
        put_varint(out, number);
    }
}
