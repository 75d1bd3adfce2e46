//! Where Rust threads and the one hot Python thread meet: one lock, one condition, four queues.
use super::answers::Answers;
use super::streams::Streams;
use crate::call::{Audience, Call, Reply};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// One committed entry for the state machine: index, payload, is its result wanted here.
pub type Item = (u64, Bytes, bool);

/// Entries to apply as one atomic batch.
pub struct Batch {
    pub items: Vec<Item>,
    pub log_id: Bytes,
    /// Empty unless it changed within the batch.
    pub membership: Bytes,
}

/// What kind of rare work Python is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WorkKind {
    Ask = 1,
    Snapshot = 2,
    Install = 3,
}

/// Rare work on its way to Python.
pub struct Work {
    pub id: u64,
    pub kind: WorkKind,
    pub text: String,
    pub data: Bytes,
}

/// The two answers that Python gives to a piece of work.
pub struct WorkHandle {
    /// The state is pinned; only for snapshots.
    pub frozen: oneshot::Receiver<()>,
    pub finished: oneshot::Receiver<Reply>,
}

/// Counts calls inside the node by number and bytes; full = refuse. One with many operations counts
/// as so many.
pub struct Gate {
    calls: AtomicU64,
    bytes: AtomicU64,
    calls_max: u64,
    bytes_max: u64,
}

impl Gate {
    pub fn new(calls_max: u64, bytes_max: u64) -> Arc<Gate> {
        Arc::new(Gate {
            calls: 0.into(),
            bytes: 0.into(),
            calls_max,
            bytes_max,
        })
    }

    /// A place for a call of `bytes`, which is as much work as so many; `None` when the node has
    /// enough to do.
    pub fn enter(self: &Arc<Gate>, weight: usize, bytes: usize) -> Option<Pass> {
        let (weight, bytes) = (weight as u64, bytes as u64);
        let calls = self.calls.fetch_add(weight, Ordering::Relaxed) + weight;
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let pass = Pass {
            gate: self.clone(),
            weight,
            bytes,
        };
        // One call is always let in, however large.
        let alone = calls == weight;
        (alone || calls <= self.calls_max && held <= self.bytes_max).then_some(pass)
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Why nobody is let in.
    pub fn full(&self) -> String {
        format!(
            "{} calls with {} MiB wait, at most {} (CALLS_WAITING_MAX) and {} MiB \
             (CALL_BYTES_WAITING_MAX) may; try again in a moment",
            self.calls(),
            self.bytes.load(Ordering::Relaxed) >> 20,
            self.calls_max,
            self.bytes_max >> 20
        )
    }
}

/// A call's place inside the node; given back when dropped.
pub struct Pass {
    gate: Arc<Gate>,
    weight: u64,
    bytes: u64,
}

impl Pass {
    /// Keeps its place and gives back its bytes.
    fn lighten(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.gate.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.calls.fetch_sub(self.weight, Ordering::Relaxed);
        self.gate.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A call with its place.
pub struct Guest {
    pub call: Call,
    pub pass: Pass,
}

impl Guest {
    /// Its request is not needed any more.
    pub fn lighten(&mut self) {
        if !self.call.body.is_empty() {
            self.call.body = Bytes::new();
            self.pass.lighten();
        }
    }
}

struct Waiting {
    frozen: Option<oneshot::Sender<()>>,
    finished: oneshot::Sender<Reply>,
}

/// Where the results of a batch go.
type Results = oneshot::Sender<Vec<Option<Reply>>>;

/// What `step` brings back to Python.
#[derive(Default)]
pub struct Taken {
    pub calls: Vec<(u64, u32, Bytes)>,
    pub batches: Vec<(u64, Batch)>,
    pub done: Vec<(u64, Reply)>,
    pub work: Vec<Work>,
    /// Of streamed answers: (id, there is room again; or else the caller is gone).
    pub flow: Vec<(u64, bool)>,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Guest>,
    batch: Option<(Batch, Results)>,
    done: VecDeque<(u64, Reply)>,
    work: VecDeque<Work>,
    /// bounded: each open stream is in it at most twice, once for room and once for its end.
    flow: Vec<(u64, bool)>,
    /// Calls that Python holds.
    held: HashMap<u64, Guest>,
    /// The batch that Python holds.
    applying: Option<(u64, usize, Results)>,
    working: HashMap<u64, Waiting>,
    next: u64,
    woken: bool,
    asleep: bool,
    /// Since when Python has been away from `step`.
    away: Option<Instant>,
    closed: bool,
    /// Why the engine has stopped; told once.
    fatal: Option<String>,
    told: bool,
}

impl State {
    fn idle(&self) -> bool {
        self.calls.is_empty()
            && self.batch.is_none()
            && self.done.is_empty()
            && self.work.is_empty()
            && self.flow.is_empty()
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// See the module's text.
pub struct Queue {
    /// What reads are answered with instead of going to Python.
    pub answers: Answers,
    /// Calls that Python answers by streams. Its lock is never taken within the one of `state`.
    pub streams: Streams,
    state: Mutex<State>,
    ready: Condvar,
}

impl Queue {
    /// With room for so many bytes of kept answers.
    pub fn new(answers_bytes_max: u64) -> Queue {
        Queue {
            answers: Answers::new(answers_bytes_max),
            streams: Streams::default(),
            state: Mutex::default(),
            ready: Condvar::new(),
        }
    }

    fn put(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if state.asleep {
            self.ready.notify_one();
        }
    }

    // ---- from Rust threads ----------------------------------------------------------------------

    pub fn call(&self, guest: Guest) {
        self.put(|s| s.calls.push_back(guest));
    }

    pub fn calls(&self, guests: impl IntoIterator<Item = Guest>) {
        self.put(|s| s.calls.extend(guests));
    }

    pub fn done(&self, ticket: u64, reply: Reply) {
        self.put(|s| s.done.push_back((ticket, reply)));
    }

    /// Hands over one batch; the receiver fails when the engine closes before it is applied.
    pub fn apply(&self, batch: Batch) -> oneshot::Receiver<Vec<Option<Reply>>> {
        let (tx, rx) = oneshot::channel();
        self.put(|s| {
            debug_assert!(
                s.batch.is_none() && s.applying.is_none(),
                "one batch at a time"
            );
            if !s.closed {
                s.batch = Some((batch, tx));
            }
        });
        rx
    }

    pub fn work(&self, kind: WorkKind, text: String, data: Bytes) -> WorkHandle {
        let (frozen_tx, frozen) = oneshot::channel();
        let (finished_tx, finished) = oneshot::channel();
        self.put(|s| {
            if s.closed {
                return; // both receivers fail at once
            }
            let id = s.id();
            s.working.insert(
                id,
                Waiting {
                    frozen: Some(frozen_tx),
                    finished: finished_tx,
                },
            );
            s.work.push_back(Work {
                id,
                kind,
                text,
                data,
            });
        });
        WorkHandle { frozen, finished }
    }

    /// The engine has stopped; `step` says so once.
    pub fn fatal(&self, why: String) {
        self.put(|s| {
            s.fatal.get_or_insert(why);
        });
    }

    pub fn fatal_text(&self) -> Option<String> {
        self.state.lock().fatal.clone()
    }

    /// How long Python has been away while something waits for it.
    pub fn stuck(&self) -> Option<Duration> {
        let state = self.state.lock();
        if state.idle() && state.applying.is_none() {
            return None;
        }
        state.away.map(|since| since.elapsed())
    }

    /// Calls past their deadline that Python has not answered.
    pub fn expire(&self, now: Instant) -> Vec<Guest> {
        let mut state = self.state.lock();
        let late: Vec<u64> = state
            .held
            .iter()
            .filter(|(_, g)| g.call.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        let mut out: Vec<Guest> = late.iter().filter_map(|id| state.held.remove(id)).collect();
        while state.calls.front().is_some_and(|g| g.call.deadline <= now) {
            out.extend(state.calls.pop_front());
        }
        out
    }

    /// Lets everybody go: batches and work fail, calls are returned for an answer.
    pub fn close(&self) -> Vec<Guest> {
        let mut state = self.state.lock();
        state.closed = true;
        state.batch = None;
        state.applying = None;
        state.working.clear();
        state.work.clear();
        let mut guests: Vec<Guest> = state.calls.drain(..).collect();
        guests.extend(state.held.drain().map(|(_, g)| g));
        self.ready.notify_all();
        drop(state);
        guests.extend(self.streams.close());
        guests
    }

    // ---- from Python --------------------------------------------------------------------------

    pub fn wake(&self) {
        self.put(|s| s.woken = true);
    }

    pub fn frozen(&self, work: u64) {
        let tx = self
            .state
            .lock()
            .working
            .get_mut(&work)
            .and_then(|w| w.frozen.take());
        if let Some(tx) = tx {
            let _ = tx.send(());
        }
    }

    pub fn finish(&self, work: u64, reply: Reply) {
        let waiting = self.state.lock().working.remove(&work);
        if let Some(waiting) = waiting {
            let _ = waiting.finished.send(reply);
        }
    }

    /// Takes a call back from Python; `None` when its caller has been answered already.
    pub fn take_call(&self, id: u64) -> Option<Guest> {
        let held = self.state.lock().held.remove(&id);
        held.or_else(|| self.streams.take(id))
    }

    /// Answers a read, and all who ask the same from here on.
    pub fn answer_and_keep(&self, id: u64, answer: Bytes) {
        if let Some(Guest { call, pass }) = self.take_call(id) {
            self.answers
                .keep(id, call.method, &call.body, answer.clone());
            (call.answer)(Ok(answer));
            drop(pass);
        }
    }

    /// Forgets all kept answers; those to calls that Python has by now are not kept either, or none
    /// at all any more.
    pub fn forget_answers(&self, for_good: bool) {
        let last = self.state.lock().next;
        self.answers.forget_all(last, for_good);
    }

    /// Python has said for good that nothing of this state may be told any more.
    pub fn condemned(&self) -> bool {
        self.answers.closed()
    }

    /// The results of the batch that Python held. False: another was out, or of another length.
    pub fn applied(&self, seq: u64, results: Vec<Option<Reply>>) -> bool {
        let mut state = self.state.lock();
        match state.applying.take() {
            Some((s, n, tx)) if s == seq && n == results.len() => {
                let _ = tx.send(results);
                true
            }
            None => state.closed, // the engine closed meanwhile
            other => {
                state.applying = other;
                false
            }
        }
    }

    /// Waits for something to do and takes it. `Err` = the engine has stopped, and why.
    pub fn take(self: &Arc<Self>, max: usize, timeout: Duration) -> Result<Taken, String> {
        let until = Instant::now() + timeout;
        let mut state = self.state.lock();
        state.away = None;
        while state.idle() && !state.woken && !state.closed && (state.fatal.is_none() || state.told)
        {
            state.asleep = true;
            let late = self.ready.wait_until(&mut state, until).timed_out();
            state.asleep = false;
            if late {
                break;
            }
        }
        state.woken = false;
        if state.closed {
            return Err("the engine is closed".into());
        }
        if let Some(why) = state.fatal.clone().filter(|_| !state.told) {
            state.told = true;
            return Err(why);
        }
        let (mut taken, streams) = Self::take_ready(&mut state, max);
        state.away = Some(Instant::now());
        drop(state);
        for (id, guest) in streams {
            if !self.streams.open(id, guest, self.clone()) {
                taken.calls.retain(|call| call.0 != id);
            }
        }
        if !taken.flow.is_empty() {
            taken.flow = self.streams.heard(taken.flow);
        }
        Ok(taken)
    }

    /// Also those of the calls that are answered by streams.
    fn take_ready(state: &mut State, max: usize) -> (Taken, Vec<(u64, Guest)>) {
        let mut taken = Taken::default();
        let mut streams = Vec::new();
        if let Some((batch, tx)) = state.batch.take() {
            let seq = state.id();
            state.applying = Some((seq, batch.items.len(), tx));
            taken.batches.push((seq, batch));
        }
        let n = state.calls.len().min(max);
        for _ in 0..n {
            let Some(guest) = state.calls.pop_front() else {
                break;
            };
            let id = state.id();
            taken
                .calls
                .push((id, guest.call.method, guest.call.body.clone()));
            if guest.call.outlet.is_some() {
                streams.push((id, guest));
            } else {
                state.held.insert(id, guest);
            }
        }
        taken.done.extend(state.done.drain(..));
        taken.work.extend(state.work.drain(..));
        taken.flow = std::mem::take(&mut state.flow);
        (taken, streams)
    }
}

impl Audience for Queue {
    fn news(&self, id: u64, room: bool) {
        self.put(|s| s.flow.push((id, room)));
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn a_call_takes_as_many_places_as_it_has_operations() {
        let gate = Gate::new(10, 100);
        let one = gate.enter(1, 0);
        let eight = gate.enter(8, 0);
        assert!(one.is_some() && eight.is_some());
        assert!(gate.enter(2, 0).is_none());
        assert!(gate.enter(1, 0).is_some());
        drop((one, eight));
        assert_eq!(gate.calls(), 0);
        let alone = gate.enter(11, 1_000);
        assert!(alone.is_some(), "it is let in, however large");
        assert!(gate.enter(1, 0).is_none());
    }
}
