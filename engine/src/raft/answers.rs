//! Answers that Python gave to reads and that the engine may give again.
//!
//! All meaning is Python's: it says which answers may be kept (`step(keep=…)`), and what the
//! answers to requests are since a change, if it knows (`step(changed=…)`). Here both are opaque.
//!
//! Why no read gets anything older than its barrier:
//!
//! 1. Python applies one batch at a time. `step` puts right what a batch changed *before* it
//!    delivers the batch's results, and only when those are delivered does `Progress` advance. So
//!    while `Progress` is at an index, every entry here is the answer of the state of that index,
//!    or of a later one: of committed entries in any case.
//! 2. An entry that is kept was computed by the hot thread after all batches it has taken were
//!    applied, and comes with the same `step` that puts right what those changed: first that, then
//!    what is kept. No other verb keeps anything.
//! 3. A read looks here only after its barrier: `Progress` was at its index before. By 1 it finds
//!    an answer of that index or a later one.
//! 4. A state that comes as a snapshot replaces all at once, on another thread than the hot one.
//!    Everything is forgotten after Python has finished and before `Progress` jumps. What the hot
//!    thread may still bring of the old state then is not kept: answers to calls that were handed
//!    out before (ids grow, and `forget_all` notes the last one); and changes have no answers from
//!    the moment when it hears of the snapshot (`leave` in src/dfs/node/hot.py).
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// About what an entry takes beside its bytes.
const ENTRY_BYTES: u64 = 200;
/// Places of entries that are gone, beside as many as there are entries, before they are cleared.
const GAPS_MAX: usize = 1_024;

struct Kept {
    method: u32,
    answer: Bytes,
    serial: u64,
}

#[derive(Default)]
struct Table {
    /// By the request's body; of one method, whichever was kept last.
    known: HashMap<Arc<[u8]>, Kept>,
    /// Oldest first. An entry that is gone, or was made anew, may still have its place here.
    order: VecDeque<(u64, Arc<[u8]>)>,
    bytes: u64,
    next: u64,
    /// Answers to calls up to this id may be of a state that is gone.
    gone: u64,
    /// Nothing is kept any more.
    closed: bool,
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
        if let Some(kept) = self.known.remove(body) {
            self.bytes -= size(body, &kept.answer);
        }
    }

    fn keep(&mut self, method: u32, body: &[u8], answer: Bytes, bytes_max: u64) {
        if self.closed || size(body, &answer) > bytes_max {
            return self.forget(body);
        }
        self.bytes += size(body, &answer);
        if let Some(kept) = self.known.get_mut(body) {
            self.bytes -= size(body, &kept.answer);
            kept.method = method;
            kept.answer = answer;
        } else {
            self.next += 1;
            let (serial, body) = (self.next, Arc::<[u8]>::from(body));
            self.order.push_back((serial, body.clone()));
            let kept = Kept {
                method,
                answer,
                serial,
            };
            self.known.insert(body, kept);
        }
        while self.bytes > bytes_max
            && let Some((serial, oldest)) = self.order.pop_front()
        {
            if self.known.get(&oldest).is_some_and(|k| k.serial == serial) {
                self.forget(&oldest);
            }
        }
        if self.order.len() > 2 * self.known.len() + GAPS_MAX {
            let known = &self.known;
            self.order
                .retain(|(serial, body)| known.get(body).is_some_and(|k| k.serial == *serial));
        }
    }
}

/// A request with another answer since a change, if that is known.
pub struct Changed {
    pub method: u32,
    pub body: Bytes,
    pub answer: Option<Bytes>,
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

    /// Puts these requests right.
    pub fn change(&self, changed: Vec<Changed>) {
        if changed.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        for Changed {
            method,
            body,
            answer,
        } in changed
        {
            match answer {
                Some(answer) => table.keep(method, &body, answer, self.bytes_max),
                None => table.forget(&body),
            }
        }
    }

    /// Forgets all, and keeps no answer to a call with an id up to `last` from here on; nothing at
    /// all if it is `for_good`.
    pub fn forget_all(&self, last: u64, for_good: bool) {
        let mut table = self.table.lock();
        let fresh = Table {
            gone: table.gone.max(last),
            closed: table.closed || for_good,
            ..Table::default()
        };
        let old = std::mem::replace(&mut *table, fresh);
        drop(table);
        drop(old); // takes its time, and reads need the lock
    }

    /// No answer at all is kept any more: what this node has applied may be wrong.
    pub fn closed(&self) -> bool {
        self.table.lock().closed
    }

    /// Keeps the answer to the call `id`, which asked so.
    pub fn keep(&self, id: u64, method: u32, body: &[u8], answer: Bytes) {
        let mut table = self.table.lock();
        if id > table.gone {
            table.keep(method, body, answer, self.bytes_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(body: &'static [u8], answer: Option<&'static [u8]>) -> Changed {
        Changed {
            method: 2,
            body: Bytes::from_static(body),
            answer: answer.map(Bytes::from_static),
        }
    }

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
        answers.change(vec![changed(b"a", None), changed(b"c", None)]);
        assert_eq!(find(&answers, 2, b"a"), None);
        assert_eq!(find(&answers, 2, b"b").unwrap(), "2");
        answers.change(vec![changed(b"a", Some(b"4")), changed(b"b", Some(b"55"))]);
        assert_eq!(find(&answers, 2, b"a").unwrap(), "4");
        assert_eq!(find(&answers, 2, b"b").unwrap(), "55");
        let table = answers.table.lock();
        assert_eq!((table.known.len(), table.bytes), (2, 2 * ENTRY_BYTES + 5));
    }

    #[test]
    fn calls_from_before_a_new_state_bring_nothing_back() {
        let answers = Answers::new(10_000);
        answers.keep(4, 2, b"a", Bytes::from_static(b"1"));
        answers.forget_all(5, false);
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.keep(5, 2, b"a", Bytes::from_static(b"old"));
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.keep(6, 2, b"a", Bytes::from_static(b"new"));
        assert_eq!(find(&answers, 2, b"a").unwrap(), "new");
        answers.forget_all(6, true);
        answers.keep(7, 2, b"a", Bytes::from_static(b"newer"));
        answers.change(vec![changed(b"a", Some(b"newest"))]);
        assert_eq!(find(&answers, 2, b"a"), None, "nothing is kept for good");
    }

    #[test]
    fn places_of_what_is_gone_do_not_pile_up() {
        let answers = Answers::new(1 << 20);
        answers.keep(1, 2, b"a", Bytes::from_static(b"1"));
        for _ in 0..10 * GAPS_MAX {
            answers.change(vec![changed(b"b", Some(b"2")), changed(b"b", None)]);
        }
        let table = answers.table.lock();
        assert!(table.order.len() <= 2 + GAPS_MAX);
        assert_eq!((table.known.len(), table.bytes), (1, ENTRY_BYTES + 2));
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_bytes() {
        let answers = Answers::new(3 * (ENTRY_BYTES + 2));
        for (id, body) in [b"a", b"b", b"c", b"d"].into_iter().enumerate() {
            answers.keep(id as u64 + 1, 2, body, Bytes::from_static(b"1"));
        }
        assert_eq!(find(&answers, 2, b"a"), None);
        answers.change(vec![changed(b"b", None)]);
        answers.keep(9, 2, b"b", Bytes::from_static(b"2"));
        answers.keep(10, 2, b"e", Bytes::from_static(b"1"));
        assert_eq!(find(&answers, 2, b"c"), None);
        assert_eq!(find(&answers, 2, b"b").unwrap(), "2");
        answers.keep(11, 2, b"f", vec![0; 1_000].into());
        assert_eq!(find(&answers, 2, b"f"), None, "larger than all the room");
        assert_eq!(answers.table.lock().known.len(), 3);
    }
}
