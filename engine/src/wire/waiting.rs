//! The hot calls of one connection that have no answer yet.
use super::frame::Frame;
use super::shared::Gauge;
use h2::server::SendResponse;
use std::time::Instant;
use tokio::task::AbortHandle;

/// A call under way.
pub struct Entry {
    serial: u64,
    pub deadline: Instant,
    pub read: bool,
    pub respond: SendResponse<Frame>,
    /// The task that still reads its body.
    pub reader: Option<AbortHandle>,
    _counted: Gauge,
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

    /// Returns the key and the serial of the new entry.
    pub fn insert(
        &mut self,
        deadline: Instant,
        read: bool,
        respond: SendResponse<Frame>,
        counted: Gauge,
    ) -> (usize, u64) {
        self.serial += 1;
        let serial = self.serial;
        let entry = Entry {
            serial,
            deadline,
            read,
            respond,
            reader: None,
            _counted: counted,
        };
        let key = self.free.pop().unwrap_or(self.entries.len());
        if key == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[key] = Some(entry);
        (key, serial)
    }

    /// Notes who still reads the body of a call that was just entered.
    pub fn set_reader(&mut self, key: usize, reader: AbortHandle) {
        if let Some(Some(entry)) = self.entries.get_mut(key) {
            entry.reader = Some(reader);
        }
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
        let overdue = |place: &Option<Entry>| place.as_ref().is_some_and(|e| e.deadline <= now);
        let key = self.entries.iter().position(overdue)?;
        self.free.push(key);
        self.entries[key].take()
    }

    pub fn earliest(&self) -> Option<Instant> {
        self.entries
            .iter()
            .flatten()
            .map(|entry| entry.deadline)
            .min()
    }
}
