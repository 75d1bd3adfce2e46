//! Questions of the kernel that somebody else answers: opens of files that are made, and extended
//! attributes. Others are served meanwhile.
use super::abi::TRANSFER;
use super::answers::slice;
use super::device::Device;
use super::misses::{Waiter, Want};
use super::node::Node;
use super::reply::Message;
use super::request::Request;
use super::serve::Call;
use super::session::Session;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl Session {
    /// Parks a request until somebody has answered it.
    pub(super) fn ask(&self, call: &mut Call<'_>, node: &Arc<Node>, want: Want, what: String) {
        let path = self.tree.read().path(node);
        let Some(path) = path else {
            return call.refuse(libc::ESTALE);
        };
        self.counters.questions.fetch_add(1, Relaxed);
        let waiter = Waiter {
            unique: call.unique,
            node: node.clone(),
            want,
        };
        if let Err(errno) = self.misses.ask(waiter, &path, what, Instant::now()) {
            call.refuse(errno);
        }
    }

    /// Extended attributes. The kernel asks for many that nobody sets (`security.…`): it is told so
    /// here.
    pub(super) fn attributes(&self, call: &mut Call<'_>, id: u64, request: &Request<'_>) {
        let (size, what) = match *request {
            Request::ListXattr { size } => (size, "xattrs".to_owned()),
            Request::GetXattr { name, size } => match str::from_utf8(name) {
                Ok(name) if name.starts_with("user.") => (size, format!("xattr:{name}")),
                _ => return call.refuse(libc::ENODATA),
            },
            _ => return call.refuse(libc::ENOSYS),
        };
        self.with_node(call, id, |call, node| {
            self.ask(call, node, Want::Value { size }, what);
        });
    }

    /// Somebody has answered: does what the request wanted.
    pub(super) fn deliver_answer(
        &self,
        device: &Device,
        waiter: &Waiter,
        result: Result<Vec<u8>, i32>,
    ) {
        let call = &mut Call {
            device,
            unique: waiter.unique,
            message: &mut Message::default(),
        };
        match (result, waiter.want) {
            (Err(errno), _) => call.refuse(errno),
            (Ok(bytes), Want::Value { size: 0 }) => {
                call.ok().length(bytes.len());
                call.send();
            }
            (Ok(bytes), Want::Value { size }) if bytes.len() > size as usize => {
                call.refuse(libc::ERANGE);
            }
            (Ok(bytes), Want::Value { .. }) => {
                call.ok().bytes(&bytes);
                call.send();
            }
            (Ok(bytes), _) => {
                let Some(handle) = self.answers.keep(bytes) else {
                    return call.refuse(libc::ENFILE);
                };
                call.ok().opened_made(handle);
                if !call.send() {
                    self.answers.drop(handle); // No RELEASE will come.
                }
            }
        }
    }

    /// ESTALE: a process that died has made what is open.
    pub(super) fn read_answer(&self, call: &mut Call<'_>, handle: u64, (offset, size): (u64, u32)) {
        self.counters.reads.fetch_add(1, Relaxed);
        let Some(bytes) = self.answers.get(handle) else {
            return call.refuse(libc::ESTALE);
        };
        let length = (size as usize).min(TRANSFER);
        call.ok().bytes(slice(&bytes, offset, length));
        call.send();
    }
}

#[cfg(test)]
#[path = "tests/ask.rs"]
mod tests;
