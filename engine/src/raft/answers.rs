//! Answers that Python gave to reads and that the engine may give again.
//!
//! All meaning is Python's: it says which answers may be kept (`step(keep=…)`) and which requests
//! have other answers by now (`step(forget=…)`). Here both are opaque bytes.
//!
//! Why no read gets anything older than its barrier:
//!
//! 1. Python applies one batch at a time. `step` forgets what a batch changed *before* it delivers
//!    the batch's results, and only when those are delivered does `Progress` advance. So while
//!    `Progress` is at an index, every entry here is the answer of the state of that index, or of a
//!    later one: of committed entries in any case.
//! 2. An entry that is kept was computed by the hot thread after all batches it has taken were
//!    applied, and comes with the same `step` that forgets what those changed: forgotten first,
//!    kept afterwards. No other verb keeps anything.
//! 3. A read looks here only after its barrier: `Progress` was at its index before. By 1 it finds
//!    an answer of that index or a later one.
//! 4. A state that comes as a snapshot replaces all at once, on another thread than the hot one.
//!    Everything is forgotten after Python has finished and before `Progress` jumps, and answers to
//!    calls that were handed out before are not kept any more: ids grow, and `forget_all` notes the
//!    last one.
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// About what an entry takes beside its bytes.
const ENTRY_BYTES: u64 = 200;

struct Kept {
    method: u32,
    answer: Bytes,
    serial: u64,
}

#[derive(Default)]
struct Table {
    /// By the request's body; of one method, whichever was kept last.
    known: HashMap<Arc<[u8]>, Kept>,
    /// Oldest first.
    order: BTreeMap<u64, Arc<[u8]>>,
    bytes: u64,
    next: u64,
    /// Answers to calls up to this id may be of a state that is gone.
    gone: u64,
}

fn size(body: &[u8], answer: &[u8]) -> u64 {
    (body.len() + answer.len()) as u64 + ENTRY_BYTES
}

impl Table {
    fn find(&self, method: u32, body: &[u8]) -> Option<Bytes> {
        let kept = self.known.get(body)?;
        (kept.method == method).then(|| kept.answer.clone())
    }

    fn forget(&mut self, body: &[u8]) {
        if let Some((body, kept)) = self.known.remove_entry(body) {
            self.order.remove(&kept.serial);
            self.bytes -= size(&body, &kept.answer);
        }
    }

    fn keep(&mut self, method: u32, body: &[u8], answer: Bytes) {
        self.forget(body);
        self.next += 1;
        let serial = self.next;
        let body: Arc<[u8]> = body.into();
        self.bytes += size(&body, &answer);
        self.order.insert(serial, body.clone());
        let kept = Kept {
            method,
            answer,
            serial,
        };
        self.known.insert(body, kept);
    }
}

/// See the module's text.
pub struct Answers {
    table: Mutex<Table>,
    bytes_max: u64,
}

impl Answers {
    /// Empty; the oldest goes first when there are more than `bytes_max`.
    pub fn new(bytes_max: u64) -> Answers {
        Answers {
            table: Mutex::default(),
            bytes_max,
        }
    }

    /// Splits `asked` into those that have an answer here, with it, and the others. One lock.
    pub fn split<T>(
        &self,
        asked: Vec<T>,
        request: impl Fn(&T) -> (u32, &[u8]),
    ) -> (Vec<(T, Bytes)>, Vec<T>) {
        let (mut found, mut others) = (Vec::new(), Vec::new());
        let table = self.table.lock();
        if table.known.is_empty() {
            return (found, asked);
        }
        found.reserve(asked.len());
        for one in asked {
            let (method, body) = request(&one);
            match table.find(method, body) {
                Some(answer) => found.push((one, answer)),
                None => others.push(one),
            }
        }
        (found, others)
    }

    /// Forgets the answers to these requests.
    pub fn forget(&self, bodies: &[Bytes]) {
        if bodies.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        for body in bodies {
            table.forget(body);
        }
    }

    /// Forgets all, and keeps no answer to a call with an id up to `last` from here on.
    pub fn forget_all(&self, last: u64) {
        let mut table = self.table.lock();
        let fresh = Table {
            gone: table.gone.max(last),
            ..Table::default()
        };
        let old = std::mem::replace(&mut *table, fresh);
        drop(table);
        drop(old); // takes its time, and reads need the lock
    }

    /// Keeps the answer to the call `id`, which asked so.
    pub fn keep(&self, id: u64, method: u32, body: &[u8], answer: Bytes) {
        let mut table = self.table.lock();
        if id <= table.gone || size(body, &answer) > self.bytes_max {
            return;
        }
        table.keep(method, body, answer);
        while table.bytes > self.bytes_max
            && let Some((_, oldest)) = table.order.first_key_value()
        {
            let oldest = oldest.clone();
            table.forget(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(answers: &Answers, method: u32, body: &'static [u8]) -> Option<Bytes> {
        let (mut found, others) = answers.split(vec![body], |b| (method, b));
        assert_eq!(found.len() + others.len(), 1);
        found.pop().map(|(_, answer)| answer)
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_forgotten() {
        let answers = Answers::new(10_000);
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.keep(1, 2, b"a", Bytes::from_static(b"1"));
        answers.keep(2, 2, b"b", Bytes::from_static(b"2"));
        assert_eq!(find(&answers, 2, b"a").unwrap(), "1");
        assert_eq!(find(&answers, 3, b"a"), None, "another method");
        answers.keep(3, 2, b"a", Bytes::from_static(b"3"));
        assert_eq!(find(&answers, 2, b"a").unwrap(), "3");
        answers.forget(&[Bytes::from_static(b"a"), Bytes::from_static(b"c")]);
        assert_eq!(find(&answers, 2, b"a"), None);
        assert_eq!(find(&answers, 2, b"b").unwrap(), "2");
        let table = answers.table.lock();
        assert_eq!((table.order.len(), table.bytes), (1, ENTRY_BYTES + 2));
    }

    #[test]
    fn calls_from_before_a_new_state_bring_nothing_back() {
        let answers = Answers::new(10_000);
        answers.keep(4, 2, b"a", Bytes::from_static(b"1"));
        answers.forget_all(5);
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.keep(5, 2, b"a", Bytes::from_static(b"old"));
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.keep(6, 2, b"a", Bytes::from_static(b"new"));
        assert_eq!(find(&answers, 2, b"a").unwrap(), "new");
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_bytes() {
        let answers = Answers::new(3 * (ENTRY_BYTES + 2));
        for (id, body) in [b"a", b"b", b"c", b"d"].into_iter().enumerate() {
            answers.keep(id as u64 + 1, 2, body, Bytes::from_static(b"1"));
        }
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.keep(9, 2, b"b", Bytes::from_static(b"2"));
        answers.keep(10, 2, b"e", Bytes::from_static(b"1"));
        assert_eq!(find(&answers, 2, b"c"), None);
        assert_eq!(find(&answers, 2, b"b").unwrap(), "2");
        answers.keep(11, 2, b"f", vec![0; 1_000].into());
        assert_eq!(find(&answers, 2, b"f"), None, "larger than all the room");
        assert_eq!(answers.table.lock().known.len(), 3);
    }
}
