//! Calls from the public port: refused, into the log, to a barrier, or straight to Python.
use super::propose::Proposal;
use super::queue::Guest;
use super::reads::{self, Read, Reader};
use super::shared::Shared;
use crate::call::{Call, Handler};
use crate::records::entry::{count_operations, plain_head};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a call counts for at most: more operations are refused by whoever looks at them.
const WEIGHT_MAX: usize = 1_024;

/// The node as the wire sees it.
pub struct Calls(pub Arc<Shared>);

impl Handler for Calls {
    fn call(&self, call: Call) {
        self.0.take_call(call);
    }
}

/// Puts of nothing but content, which need no look by Python on their way into the log.
pub struct Plain {
    pub method: u32,
    /// What their entries start with.
    pub writer: Bytes,
    pub data_bytes_max: usize,
}

impl Shared {
    fn plain_head(&self, call: &Call) -> Option<Vec<u8>> {
        let plain = self.plain.read();
        let plain = plain.as_ref().filter(|p| p.method == call.method)?;
        plain_head(&call.body, &plain.writer, plain.data_bytes_max)
    }

    /// Proposes a call's body behind `head`; the outcome is its answer.
    pub fn propose(self: &Arc<Self>, guest: Guest, head: &[u8]) {
        let Guest { call, pass } = guest;
        let shared = self.clone();
        let done = move |outcome| {
            (call.answer)(shared.reply_of(outcome));
            drop(pass);
        };
        let patience = Duration::from_millis(self.options.no_leader_ms_max);
        let parts = [head, &call.body];
        let proposal = Proposal::new(&parts, call.deadline, patience, false, Box::new(done));
        let _ = self.proposals.send(proposal);
    }

    /// See the module's text.
    pub fn take_call(self: &Arc<Self>, call: Call) {
        if self.stopping() {
            return (call.answer)(Err(self.failure("shutting_down")));
        }
        if let Some(failure) = &*self.refusal.read() {
            return (call.answer)(Err(failure.clone()));
        }
        let gate = match &call.outlet {
            Some(_) => &self.gate_of_streams,
            None => &self.gate,
        };
        let weight = match call.read {
            true => 1,
            false => count_operations(&call.body, WEIGHT_MAX).max(1),
        };
        let Some(pass) = gate.enter(weight, call.body.len()) else {
            let text = gate.full();
            return (call.answer)(Err(self.failure("overloaded").with(text)));
        };
        let (read, deadline) = (call.read, call.deadline);
        let mut guest = Guest { call, pass };
        if !read {
            return match self.plain_head(&guest.call) {
                Some(head) => self.propose(guest, &head),
                None => self.queue.call(guest),
            };
        }
        // How fresh is the engine's to see to. Without it requests for the same are the same.
        let (level, length) = reads::level(&guest.call.body);
        guest.call.body.truncate(length);
        match level {
            reads::Level {
                local: true,
                min_revision: 0,
            } => self.pass([Reader::Call(guest)]),
            reads::Level {
                local: true,
                min_revision,
            } => {
                self.when_applied(min_revision, deadline, vec![Reader::Call(guest)]);
            }
            reads::Level {
                local: false,
                min_revision,
            } => {
                let reader = Reader::Call(guest);
                let since = Instant::now();
                let _ = self.reads.send(Read {
                    reader,
                    deadline,
                    since,
                    min_revision,
                });
            }
        }
    }
}
