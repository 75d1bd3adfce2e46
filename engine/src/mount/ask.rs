//! Questions of the kernel that somebody else answers: opens of files that are made, extended
//! attributes, past revisions. Others are served meanwhile.
use super::abi::TRANSFER;
use super::answers::slice;
use super::change::Upsert;
use super::device::Device;
use super::misses::{Waiter, Want};
use super::node::Node;
use super::reply::Message;
use super::request::Request;
use super::serve::Call;
use super::session::Session;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long the kernel goes by the name of a past revision. What is below it never changes, but
/// history passes on.
const NAMED_TTL: Duration = Duration::from_secs(1);

impl Session {
    /// Parks a request until somebody has answered it.
    pub(super) fn ask(&self, call: &mut Call<'_>, node: &Arc<Node>, want: Want, what: String) {
        let path = self.tree.read().asked(node);
        let Some(path) = path else {
            return call.refuse(libc::ESTALE);
        };
        self.counters.questions.fetch_add(1, Relaxed);
        let waiter = Waiter {
            unique: call.unique,
            node: node.clone(),
            want,
            since: Instant::now(),
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
        match (result, &waiter.want) {
            (Err(errno), _) => call.refuse(errno),
            (Ok(bytes), Want::Value { size: 0 }) => {
                call.ok().length(bytes.len());
                call.send();
            }
            (Ok(bytes), Want::Value { size }) if bytes.len() > *size as usize => {
                call.refuse(libc::ERANGE);
            }
            (Ok(bytes), Want::Value { .. }) => {
                call.ok().bytes(&bytes);
                call.send();
            }
            (Ok(bytes), Want::Open) => {
                let Some(handle) = self.answers.keep(bytes) else {
                    return call.refuse(libc::ENFILE);
                };
                call.ok().opened_made(handle);
                if !call.send() {
                    self.answers.drop(handle); // No RELEASE will come.
                }
            }
            (Ok(_), _) => call.refuse(libc::EIO), // It wants entries.
        }
    }

    /// Asks for the entries of a past directory. One of now that was taken away has none (ENOENT),
    /// one that nobody knows is ESTALE.
    pub(super) fn ask_past(&self, call: &mut Call<'_>, id: u64, want: Want) {
        let directory = self.tree.read().get(id).cloned();
        match directory {
            Some(directory) if directory.past && directory.is_directory() => {
                self.ask(call, &directory, want, "list".to_owned());
            }
            Some(_) => call.refuse(libc::ENOENT),
            None => call.refuse(libc::ESTALE),
        }
    }

    /// Asks for a past revision by its name.
    pub(super) fn ask_revision(&self, call: &mut Call<'_>, top: u64, name: &[u8]) {
        let Ok(name) = str::from_utf8(name) else {
            return call.refuse(libc::ENOENT);
        };
        let what = format!("name:{name}");
        self.with_node(call, top, |call, top| {
            self.ask(call, top, Want::Revision, what);
        });
    }

    /// Somebody has brought entries: does what the request wanted.
    pub(super) fn deliver_entries(&self, device: &Device, waiter: &Waiter, entries: &[Upsert]) {
        let call = &mut Call {
            device,
            unique: waiter.unique,
            message: &mut Message::default(),
        };
        let directory = waiter.node.id;
        match &waiter.want {
            Want::Lookup(name) => {
                self.fill_past(directory, entries);
                self.lookup(call, directory, name);
            }
            Want::List { after, size, plus } => {
                self.fill_past(directory, entries);
                self.list(call, directory, (*after, *size), *plus);
            }
            Want::Revision => {
                let named = entries
                    .first()
                    .and_then(|entry| self.tree.write().name_past(directory, entry));
                let Some(node) = named else {
                    return call.refuse(libc::ENOENT);
                };
                call.ok().entry(Some(&self.attr(&node)), NAMED_TTL);
                if !call.send() {
                    self.forget(node.id, 1); // The kernel has not learned it.
                }
            }
            _ => call.refuse(libc::EIO), // It wants bytes.
        }
    }

    fn fill_past(&self, directory: u64, entries: &[Upsert]) {
        let collisions = self.tree.write().fill(directory, entries);
        self.counters.collisions.fetch_add(collisions, Relaxed);
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
