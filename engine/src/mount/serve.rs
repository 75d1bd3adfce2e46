//! Answers the kernel's requests, one after the other; only misses are answered later.
use super::abi::{MAJOR, MINOR, MINOR_EPOCH, MINOR_MIN, TRANSFER, cap};
use super::device::{Device, Received, Waits};
use super::misses::{Waiter, Want};
use super::node::{Kind, NOBODY, Node};
use super::past;
use super::pins::Trouble;
use super::reply::{Attr, Granted, Message, Plus};
use super::request::{Malformed, Request, parse};
use super::session::Session;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What kernels without epochs may keep: a take-over cannot make them forget names at once.
const TTL_WITHOUT_EPOCHS: Duration = Duration::from_secs(1);
const WANTED: u64 = cap::ASYNC_READ
    | cap::AUTO_INVAL_DATA
    | cap::READDIRPLUS
    | cap::NO_OPEN
    | cap::PARALLEL_DIROPS
    | cap::MAX_PAGES
    | cap::CACHE_SYMLINKS
    | cap::NO_OPENDIR
    | cap::INIT_EXT
    | cap::HAS_RESEND;

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Continue,
    End,
}

/// What to do with a file that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IfAbsent {
    Fetch,
    /// It has just been fetched, or some of it: of that, chunks may still be waited for. The reader
    /// waits since then.
    Fetched(Instant),
}

/// Where the answer to one request goes.
pub(super) struct Call<'a> {
    pub device: &'a Device,
    pub unique: u64,
    pub message: &'a mut Message,
}

impl Call<'_> {
    /// Begins a successful answer.
    pub fn ok(&mut self) -> &mut Message {
        self.message.ok(self.unique)
    }

    /// False when nobody waits for it any more.
    pub fn send(&mut self) -> bool {
        self.device.send(self.message.sealed()).is_ok()
    }

    pub fn refuse(&mut self, errno: i32) {
        self.message.error(self.unique, errno);
        self.send();
    }
}

impl Session {
    /// The request loop: returns when told to stop or when the kernel ends the connection.
    pub(super) fn answer_requests(&self, device: &Device, stop: BorrowedFd<'_>) {
        let mut buffer = vec![0; TRANSFER + 4096];
        let mut message = Message::default();
        let mut waits = Waits::default();
        // Also told here: who asks quickly leaves no wait in which `stop` would be noticed.
        while !self.threads.stopped() {
            match device.receive(&mut buffer, &mut waits, stop) {
                Ok(Received::Message(length)) => {
                    if self.answer(device, &buffer[..length], &mut message) == Next::End {
                        return;
                    }
                }
                Ok(Received::Stop | Received::Ended) => return,
                // Nothing that can be repaired here: the process is replaced, the mount stays.
                Err(error) => panic!("/dev/fuse: {error}"),
            }
        }
    }

    /// Answers one request.
    pub fn answer(&self, device: &Device, bytes: &[u8], message: &mut Message) -> Next {
        self.counters.requests.fetch_add(1, Relaxed);
        match parse(bytes) {
            Ok((header, request)) => {
                let call = &mut Call {
                    device,
                    unique: header.unique,
                    message,
                };
                self.dispatch(call, header.node, &request)
            }
            Err(malformed) => {
                self.counters.malformed.fetch_add(1, Relaxed);
                if let Malformed::Body(header) = malformed {
                    Call {
                        device,
                        unique: header.unique,
                        message,
                    }
                    .refuse(libc::EINVAL);
                }
                Next::Continue
            }
        }
    }

    fn dispatch(&self, call: &mut Call<'_>, id: u64, request: &Request<'_>) -> Next {
        match *request {
            Request::Lookup(name) => self.lookup(call, id, name),
            Request::Forget(count) => self.forget(id, count),
            Request::BatchForget(ref forgets) => {
                forgets
                    .clone()
                    .for_each(|(id, count)| self.forget(id, count));
            }
            Request::GetAttr => self.with_node(call, id, |call, node| {
                call.ok().attr(&self.attr(node), self.ttl_of(node));
                call.send();
            }),
            Request::ReadLink => self.with_node(call, id, |call, node| {
                let target = node
                    .place
                    .lock()
                    .clone()
                    .filter(|_| node.kind == Kind::Link);
                let Some(target) = target else {
                    return call.refuse(libc::EINVAL);
                };
                call.ok().bytes(target.to_bytes());
                call.send();
            }),
            Request::Open | Request::Read { .. } | Request::Release { .. } => {
                self.content(call, id, request);
            }
            Request::GetXattr { .. } | Request::ListXattr { .. } if self.options.xattr => {
                self.attributes(call, id, request);
            }
            Request::ReadDir { offset, size, plus } => self.list(call, id, (offset, size), plus),
            Request::ReleaseDir => {
                call.ok();
                call.send();
            }
            Request::StatFs => {
                let totals = self.tree.read().totals();
                call.ok().statfs(totals, self.free.load(Relaxed));
                call.send();
            }
            Request::Interrupt(target) => self.interrupt(call, target),
            Request::Init {
                major,
                minor,
                readahead,
                flags,
            } => {
                self.init(call, (major, minor), readahead, flags);
            }
            Request::Destroy => {
                call.ok();
                call.send();
                return Next::End;
            }
            Request::NotifyReply => {}
            // OPENDIR: the kernel then opens and caches directories by itself. The others: FLUSH
            // and so on, most of which it then never asks again.
            Request::OpenDir
            | Request::GetXattr { .. }
            | Request::ListXattr { .. }
            | Request::Other => call.refuse(libc::ENOSYS),
        }
        Next::Continue
    }

    /// Opens, reads, closes.
    fn content(&self, call: &mut Call<'_>, id: u64, request: &Request<'_>) {
        match *request {
            Request::Open if self.options.no_open => call.refuse(libc::ENOSYS),
            Request::Open => self.with_node(call, id, |call, node| {
                self.open(call, node, IfAbsent::Fetch);
            }),
            Request::Read {
                handle: 0,
                offset,
                size,
            } => self.with_node(call, id, |call, node| {
                self.read(call, node, (offset, size), IfAbsent::Fetch);
            }),
            Request::Read {
                handle,
                offset,
                size,
            } => self.read_answer(call, handle, (offset, size)),
            Request::Release { handle } => {
                match handle {
                    0 => self.pins.release(id, call.device),
                    _ => self.answers.drop(handle),
                }
                call.ok();
                call.send();
            }
            _ => call.refuse(libc::ENOSYS),
        }
    }

    fn init(&self, call: &mut Call<'_>, (major, minor): (u32, u32), readahead: u32, flags: u64) {
        if major > MAJOR {
            call.ok().init_major();
            call.send();
            return;
        }
        if major < MAJOR || minor < MINOR_MIN {
            return call.refuse(libc::EPROTO);
        }
        let direct = self.options.passthrough && !self.options.no_open;
        let passthrough = if direct { cap::PASSTHROUGH } else { 0 };
        let flags = flags & (WANTED | passthrough);
        self.passthrough
            .store(flags & cap::PASSTHROUGH != 0, Relaxed);
        if minor >= MINOR_EPOCH {
            self.notices.allow_epochs();
        }
        let (minor, transfer) = (minor.min(MINOR), TRANSFER as u32);
        call.ok().init(&Granted {
            minor,
            readahead,
            flags,
            transfer,
        });
        call.send();
    }

    pub(super) fn lookup(&self, call: &mut Call<'_>, parent: u64, name: &[u8]) {
        self.counters.lookups.fetch_add(1, Relaxed);
        let found = self
            .tree
            .read()
            .lookup(parent, name)
            .map(|found| found.cloned());
        let found = match found {
            Ok(None) if parent == past::top() => return self.ask_revision(call, parent, name),
            Ok(found) => found,
            Err(_) => return self.ask_past(call, parent, Want::Lookup(name.into())),
        };
        let attr = found.as_deref().map(|node| self.attr(node));
        let ttl = found
            .as_deref()
            .map_or(self.ttl(), |node| self.ttl_of(node));
        call.ok().entry(attr.as_ref(), ttl);
        match (call.send(), found) {
            (true, Some(node)) => self.foresee(call.device, &node),
            (false, Some(node)) => self.forget(node.id, 1), // The kernel has not learned it.
            (_, None) => {}
        }
    }

    pub(super) fn forget(&self, id: u64, count: u64) {
        let gone = self.tree.read().forget(id, count);
        self.drop_if(gone, id);
    }

    /// Drops a node that the kernel has ceased to know, if nothing else has it.
    pub(super) fn drop_if(&self, gone: bool, id: u64) {
        if !gone {
            return;
        }
        self.tree.write().reap(id);
        if self.options.no_open
            && let Some(device) = self.device.read().clone()
        {
            self.pins.release(id, &device);
        }
    }

    /// Opens a file, or parks the request until its content is here.
    fn open(&self, call: &mut Call<'_>, node: &Arc<Node>, if_absent: IfAbsent) {
        match node.kind {
            Kind::File => {}
            Kind::Made => return self.ask(call, node, Want::Open, "content".to_owned()),
            Kind::Directory | Kind::Link => return call.refuse(libc::EISDIR),
        }
        let path = self.tree.read().of_content(node).unwrap_or_default();
        let passthrough = self.passthrough.load(Relaxed);
        self.ahead.opened(node.id);
        match self.pins.open(node, &path, call.device, passthrough) {
            Ok(opened) => {
                self.counters.opens.fetch_add(1, Relaxed);
                call.ok().opened(opened);
                if call.send() {
                    self.remember(node);
                } else {
                    self.pins.release(node.id, call.device); // No RELEASE will come.
                }
            }
            Err(trouble) => self.missing(call, node, Want::Open, &trouble, if_absent),
        }
    }

    fn read(&self, call: &mut Call<'_>, node: &Arc<Node>, range: (u64, u32), if_absent: IfAbsent) {
        self.counters.reads.fetch_add(1, Relaxed);
        if self.options.no_open {
            self.remember(node);
        }
        let (offset, size) = range;
        let length = (size as usize).min(TRANSFER);
        match call
            .ok()
            .fill(length, |into| self.pins.read(node, offset, into))
        {
            Ok(_) => {
                call.send();
            }
            Err(trouble) => {
                self.missing(call, node, Want::Read { offset, size }, &trouble, if_absent);
            }
        }
    }

    /// The content of a file is not at hand: fetches it, or says what is wrong.
    fn missing(
        &self,
        call: &mut Call<'_>,
        node: &Arc<Node>,
        want: Want,
        trouble: &Trouble,
        if_absent: IfAbsent,
    ) {
        if *trouble == Trouble::Damaged {
            self.counters.damaged.fetch_add(1, Relaxed);
        }
        let since = match if_absent {
            IfAbsent::Fetch => Instant::now(),
            IfAbsent::Fetched(since) => since,
        };
        let refusal = want.refusal(node);
        let waiter = Waiter {
            unique: call.unique,
            node: node.clone(),
            want,
            since,
        };
        match trouble {
            Trouble::Absent | Trouble::Damaged if if_absent == IfAbsent::Fetch => {
                let parked = self.park(waiter);
                self.parked(call, parked.map_err(refusal));
            }
            Trouble::Lacking(part, chunks) => {
                self.counters.misses.fetch_add(1, Relaxed);
                let parked = self.misses.park_for(waiter, part, *chunks, Instant::now());
                self.parked(call, parked.map_err(refusal));
            }
            Trouble::Failed(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                call.refuse(*errno);
            }
            _ => {
                self.counters.io_errors.fetch_add(1, Relaxed);
                call.refuse(refusal(libc::EIO));
            }
        }
    }

    fn parked(&self, call: &mut Call<'_>, parked: Result<Option<Waiter>, i32>) {
        match parked {
            Ok(None) => {}
            Ok(Some(waiter)) => self.answer_waiter(call.device, &waiter, call.message),
            Err(errno) => call.refuse(errno),
        }
    }

    fn park(&self, waiter: Waiter) -> Result<Option<Waiter>, i32> {
        let path = self.tree.read().of_content(&waiter.node);
        let path = path.ok_or(libc::EIO)?;
        self.counters.misses.fetch_add(1, Relaxed);
        self.misses.park(waiter, &path, Instant::now())
    }

    /// The content of a miss has come: does what the request wanted.
    pub(super) fn answer_waiter(&self, device: &Device, waiter: &Waiter, message: &mut Message) {
        let call = &mut Call {
            device,
            unique: waiter.unique,
            message,
        };
        let fetched = IfAbsent::Fetched(waiter.since);
        match waiter.want {
            Want::Open => self.open(call, &waiter.node, fetched),
            Want::Read { offset, size } => {
                self.read(call, &waiter.node, (offset, size), fetched);
            }
            _ => call.refuse(libc::EIO), // A question; none of the misses.
        }
    }

    pub(super) fn list(&self, call: &mut Call<'_>, id: u64, (after, size): (u64, u32), plus: bool) {
        let room = (size as usize).min(TRANSFER);
        let message = call.ok();
        let listed = self.tree.read().list(id, after, plus, |entry| {
            let plus = match (plus, entry.name) {
                (false, _) => Plus::No,
                (true, b"." | b"..") => Plus::Dot,
                (true, _) => Plus::Yes(self.ttl_of(entry.node)),
            };
            message.dirent(room, entry.cookie, entry.name, &self.attr(entry.node), plus)
        });
        match listed {
            Ok(()) => {
                call.send();
            }
            Err(_) => self.ask_past(call, id, Want::List { after, size, plus }),
        }
    }

    /// Releases a reader that waits for a file. Otherwise the request has been answered, or has not
    /// been seen yet (a take-over): EAGAIN makes the kernel ask again.
    fn interrupt(&self, call: &mut Call<'_>, target: u64) {
        if let Some(waiter) = self.misses.interrupt(target) {
            self.counters.interrupts.fetch_add(1, Relaxed);
            call.unique = waiter.unique;
            call.refuse(libc::EINTR);
        } else {
            call.refuse(libc::EAGAIN);
        }
    }

    /// ESTALE when there is no such node any more.
    pub(super) fn with_node<'a>(
        &self,
        call: &mut Call<'a>,
        id: u64,
        answer: impl FnOnce(&mut Call<'a>, &Arc<Node>),
    ) {
        let node = self.tree.read().get(id).cloned();
        match node {
            Some(node) => answer(call, &node),
            None => call.refuse(libc::ESTALE),
        }
    }

    pub(super) fn attr(&self, node: &Node) -> Attr {
        Attr {
            node: node.id,
            size: node.size,
            mtime_ns: node.mtime_ns.load(Relaxed),
            mode: node.kind.type_bits() | node.mode.load(Relaxed),
            uid: self.named(&node.uid, self.options.uid),
            gid: self.named(&node.gid, self.options.gid),
        }
    }

    fn named(&self, number: &AtomicU32, otherwise: u32) -> u32 {
        match number.load(Relaxed) {
            number if self.options.owners && number != NOBODY => number,
            _ => otherwise,
        }
    }

    fn ttl(&self) -> Duration {
        if self.live.load(Relaxed) {
            self.longest_ttl()
        } else {
            Duration::ZERO
        }
    }

    /// What is past stays as it is, whether changes arrive or not.
    fn ttl_of(&self, node: &Node) -> Duration {
        if node.past {
            self.longest_ttl()
        } else {
            self.ttl()
        }
    }

    fn longest_ttl(&self) -> Duration {
        if self.notices.epochs_allowed() {
            return self.options.ttl;
        }
        self.options.ttl.min(TTL_WITHOUT_EPOCHS)
    }
}

#[cfg(test)]
#[path = "tests/serve.rs"]
mod tests;

#[cfg(test)]
#[path = "tests/replaced.rs"]
mod replaced;
