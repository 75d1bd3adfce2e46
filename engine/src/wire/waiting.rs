//! The hot calls of one connection that have no answer yet, or no complete one.
use super::frame::Frame;
use super::grpc::Sender;
use super::shared::Gauge;
use super::stream::{Lifeline, Stream};
use h2::server::SendResponse;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;
use tokio::task::AbortHandle;

/// A call under way.
pub struct Entry {
    serial: u64,
    /// For what it waits for now; None: it may take as long as it likes.
    pub deadline: Option<Instant>,
    /// The deadline once the call has been handed on.
    pub ends: Option<Instant>,
    /// Nothing was done if it has no answer.
    pub harmless: bool,
    pub sender: Sender,
    /// The task that still reads its body.
    pub reader: Option<AbortHandle>,
    /// Of a call that is answered by a stream.
    pub stream: Option<Lifeline>,
    _counted: Gauge,
}

impl Entry {
    /// Has h2 tell the stream when the caller ends it. False: it has.
    pub fn attend(&mut self) -> bool {
        let Some(Lifeline(stream)) = &self.stream else {
            return true;
        };
        let waker = Waker::from(stream.clone());
        let mut cx = Context::from_waker(&waker);
        self.sender.poll_reset(&mut cx).is_pending()
    }

    /// Sends one message of a streamed answer. False: the caller is gone.
    pub fn message(&mut self, frame: Frame) -> bool {
        let begun = self.sender.has_begun();
        // h2 watches for the end of a call in another way before its headers than after them.
        self.sender.message(frame) && (begun || self.attend())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// A place for each call. Serials make late answers to a place that was used again harmless.
#[derive(Default)]
pub struct Waiting {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    serial: u64,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Returns the key and the serial of the new entry. It may take until the deadline to be handed
    /// on, and until its end altogether.
    pub fn insert(
        &mut self,
        (deadline, ends): (Instant, Option<Instant>),
        harmless: bool,
        respond: SendResponse<Frame>,
        counted: Gauge,
    ) -> (usize, u64) {
        self.serial += 1;
        let serial = self.serial;
        let entry = Entry {
            serial,
            deadline: Some(deadline),
            ends,
            harmless,
            sender: Sender::Fresh(respond),
            reader: None,
            stream: None,
            _counted: counted,
        };
        let key = self.free.pop().unwrap_or(self.entries.len());
        if key == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[key] = Some(entry);
        (key, serial)
    }

    /// The answer to a call that was just entered will be a stream.
    pub fn set_stream(&mut self, key: usize, stream: Arc<Stream>) {
        if let Some(Some(entry)) = self.entries.get_mut(key) {
            entry.stream = Some(Lifeline(stream));
        }
    }

    /// The entry that has this serial; None when it has been answered before.
    pub fn get(&mut self, key: usize, serial: u64) -> Option<&mut Entry> {
        let place = self.entries.get_mut(key)?;
        place.as_mut().filter(|entry| entry.serial == serial)
    }

    /// Takes out the entry that has this serial; None when it has been answered before.
    pub fn take(&mut self, key: usize, serial: u64) -> Option<Entry> {
        let place = self.entries.get_mut(key)?;
        let entry = place.take_if(|entry| entry.serial == serial)?;
        self.free.push(key);
        Some(entry)
    }

    /// Takes out one entry whose time is up.
    pub fn take_overdue(&mut self, now: Instant) -> Option<Entry> {
        let overdue = |place: &Option<Entry>| {
            let deadline = place.as_ref().and_then(|entry| entry.deadline);
            deadline.is_some_and(|deadline| deadline <= now)
        };
        let key = self.entries.iter().position(overdue)?;
        self.free.push(key);
        self.entries[key].take()
    }

    pub fn earliest(&self) -> Option<Instant> {
        let entries = self.entries.iter().flatten();
        entries.filter_map(|entry| entry.deadline).min()
    }
}
