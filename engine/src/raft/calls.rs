//! Calls from the public port: refused, to a barrier, or straight to Python.
use super::queue::Guest;
use super::reads::{self, Read, Reader};
use super::shared::Shared;
use crate::call::{Call, Handler};
use std::sync::Arc;
use std::time::Instant;

/// The node as the wire sees it.
pub struct Calls(pub Arc<Shared>);

impl Handler for Calls {
    fn call(&self, call: Call) {
        self.0.take_call(call);
    }
}

impl Shared {
    /// See the module's text.
    pub fn take_call(self: &Arc<Self>, call: Call) {
        if self.stopping() {
            return (call.answer)(Err(self.failure("shutting_down")));
        }
        let Some(pass) = self.gate.enter(call.body.len()) else {
            let text = format!("{} calls wait", self.gate.calls());
            return (call.answer)(Err(self.failure("overloaded").with(text)));
        };
        let (read, deadline) = (call.read, call.deadline);
        let guest = Guest { call, pass };
        if !read {
            return self.queue.call(guest);
        }
        let level = reads::level(&guest.call.body);
        match level {
            reads::Level {
                local: true,
                min_revision: 0,
            } => self.queue.call(guest),
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
