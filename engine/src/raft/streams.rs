//! Calls that are answered by a stream, while Python makes it.
//!
//! A call is in the table until Python has ended it or has been told that its caller is gone, so
//! whoever takes it out is the one who tells, once.
use super::queue::Guest;
use crate::call::{Audience, Bell, Failure, Sent};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// For `send`: the caller is gone.
pub const GONE: i64 = -1;

/// See the module's text.
#[derive(Default)]
pub struct Streams {
    open: Mutex<HashMap<u64, Guest>>,
}

impl Streams {
    /// Enters a call that goes to Python now. False: its caller is gone already.
    pub fn open(&self, id: u64, mut guest: Guest, audience: Arc<dyn Audience>) -> bool {
        let Some(outlet) = guest.call.outlet.clone() else {
            return false;
        };
        // Python has the request, and a stream may stay for long. Only the answer of a read may be
        // kept, by its request.
        if !guest.call.read {
            guest.lighten();
        }
        self.open.lock().insert(id, guest);
        let there = outlet.attend(id, audience);
        if !there {
            self.take(id);
        }
        there
    }

    /// Takes a call out; `None` when it has ended or Python knows that its caller is gone.
    pub fn take(&self, id: u64) -> Option<Guest> {
        self.open.lock().remove(&id)
    }

    /// Sends one message to all of these. Returns those that are to wait, with their untaken bytes,
    /// and those that are gone.
    pub fn send(&self, ids: &[u64], body: &Bytes) -> Vec<(u64, i64)> {
        let mut bells: Vec<Arc<dyn Bell>> = Vec::new();
        let mut news = Vec::new();
        {
            let mut open = self.open.lock();
            let mut message = None;
            for id in ids {
                let outlet = open.get_mut(id).and_then(|guest| {
                    guest.lighten(); // an answer of several messages is not kept
                    guest.call.outlet.as_ref()
                });
                let sent = outlet.map_or(Sent::Gone, |outlet| {
                    let message =
                        message.get_or_insert_with(|| outlet.message(body.clone(), ids.len()));
                    outlet.send(message, &mut bells)
                });
                match sent {
                    Sent::Taken => {}
                    Sent::Full(untaken) => news.push((*id, untaken as i64)),
                    Sent::Gone => {
                        open.remove(id);
                        news.push((*id, GONE));
                    }
                }
            }
        }
        for bell in bells {
            bell.ring();
        }
        news
    }

    /// Ends an answer.
    pub fn end(&self, id: u64, failure: Option<Failure>) {
        let Some(guest) = self.take(id) else { return };
        match (failure, &guest.call.outlet) {
            (Some(failure), _) => (guest.call.answer)(Err(failure)),
            (None, Some(outlet)) => outlet.finish(),
            (None, None) => {}
        }
    }

    /// What of the news Python is to hear; calls whose caller is gone are forgotten with that.
    pub fn heard(&self, news: impl IntoIterator<Item = (u64, bool)>) -> Vec<(u64, bool)> {
        let mut open = self.open.lock();
        let known = |(id, room): &(u64, bool)| match room {
            true => open.contains_key(id),
            false => open.remove(id).is_some(),
        };
        news.into_iter().filter(known).collect()
    }

    /// Lets all go.
    pub fn close(&self) -> Vec<Guest> {
        let mut open = self.open.lock();
        open.drain().map(|(_, guest)| guest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Gate, Queue};
    use super::*;
    use crate::call::{Call, Message, Outlet};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    /// Takes everything.
    struct Patient;

    impl Outlet for Patient {
        fn message(&self, body: Bytes, receivers: usize) -> Message {
            Message { body, receivers }
        }

        fn send(&self, _: &Message, _: &mut Vec<Arc<dyn Bell>>) -> Sent {
            Sent::Taken
        }

        fn finish(&self) {}

        fn attend(&self, _: u64, _: Arc<dyn Audience>) -> bool {
            true
        }
    }

    fn guest(gate: &Arc<Gate>, read: bool) -> Guest {
        let call = Call {
            method: 1,
            read,
            body: Bytes::from_static(&[0; 60]),
            deadline: Instant::now(),
            answer: Box::new(drop),
            outlet: Some(Arc::new(Patient)),
        };
        let pass = gate.enter(1, call.body.len()).unwrap();
        Guest { call, pass }
    }

    #[test]
    fn an_open_stream_keeps_its_place_but_not_its_request() {
        let queue = Arc::new(Queue::new(0));
        let gate = Gate::new(3, 100);
        let whole = || gate.enter(1, 100).is_some();
        assert!(queue.streams.open(1, guest(&gate, false), queue.clone()));
        assert!(whole(), "its bytes are free");
        assert!(queue.streams.open(2, guest(&gate, true), queue.clone()));
        assert!(!whole(), "its answer may be kept by its request");
        assert_eq!(queue.streams.send(&[1, 2], &Bytes::from_static(b"x")), []);
        assert!(whole());
        assert_eq!(gate.calls(), 2);
        queue.streams.end(1, None);
        queue.streams.end(2, None);
        assert_eq!(gate.calls(), 0);
    }

    #[test]
    fn a_step_without_news_does_not_wait_for_who_sends() {
        let queue = Arc::new(Queue::new(0));
        let sending = queue.streams.open.lock();
        let (tx, rx) = mpsc::sync_channel(1);
        let stepping = queue.clone();
        std::thread::spawn(move || {
            let taken = stepping.take(1, Duration::ZERO).is_ok();
            tx.send(taken)
        });
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)), Ok(true));
        drop(sending);
    }
}
