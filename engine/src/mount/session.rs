//! One mount: the tree, who waits, who has files open, and the threads that talk to the kernel.
//!
//! | thread      | does                                              | waits for              |
//! |-------------|---------------------------------------------------|------------------------|
//! | dfs-fuse    | reads requests, answers all but misses            | the kernel             |
//! | dfs-notify  | tells the kernel what changed; holds no lock      | the kernel's own locks |
//! | dfs-late    | answers who has waited until the deadline         | the clock              |
//!
//! Callers' threads change the tree, fulfil misses and answer questions. Locks are taken one at a
//! time, except that under any may be taken: those of `Kept`, the table, and a node's `place`, in
//! this order; and under the tree's that of the open files.
use super::ahead::Ahead;
use super::answers::Answers;
use super::change::{Batch, Upsert};
use super::content::Digest;
use super::device::Device;
use super::misses::{Misses, Question, Wanted};
use super::node::{Kind, Node};
use super::notice::{Notice, Notices, Queue};
use super::part::Part;
use super::pins::{Pin, Pins, Trouble};
use super::ready::Ready;
use super::reply::Message;
use super::table::{Left, Table};
use super::threads::Threads;
use super::told::Shown;
use super::tree::Tree;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashSet, VecDeque};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Opens remembered for the cache's LRU.
const RECENT_MAX: usize = 4_096;
/// How long closing waits for the threads.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Let the kernel read local files itself, where it and our privileges allow it.
    pub passthrough: bool,
    /// Never be asked to open: fastest for small files. Which are open nobody knows then, so what
    /// is replaced is held (`hold`).
    pub no_open: bool,
    /// A reader waits at most this long for a file that is not here.
    pub deadline: Duration,
    /// How long the kernel may keep names and attributes; it is told of each change.
    pub ttl: Duration,
    /// Extended attributes are questions; else the kernel is told that there are none, and never
    /// asks again.
    pub xattr: bool,
    /// Entries belong to whom they name; else all to `uid` and `gid`.
    pub owners: bool,
    pub uid: u32,
    pub gid: u32,
}

/// What happened, for the status.
#[derive(Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub lookups: AtomicU64,
    pub opens: AtomicU64,
    pub reads: AtomicU64,
    pub misses: AtomicU64,
    pub questions: AtomicU64,
    pub timeouts: AtomicU64,
    pub interrupts: AtomicU64,
    /// Local files without the committed size.
    pub damaged: AtomicU64,
    pub io_errors: AtomicU64,
    pub malformed: AtomicU64,
    pub stale: AtomicU64,
    pub collisions: AtomicU64,
}

/// What has come of a content that was missed.
pub enum Come {
    /// All of it: where it is.
    Whole(Arc<CStr>),
    /// Some of it, or nothing yet; the rest comes.
    Part(Arc<Part>),
}

pub struct Session {
    pub(super) options: Options,
    pub(super) tree: RwLock<Tree>,
    pub(super) misses: Misses,
    pub(super) answers: Answers,
    pub(super) notices: Queue,
    pub(super) pins: Pins,
    pub(super) ahead: Ahead,
    pub(super) counters: Counters,
    pub(super) recent: Mutex<VecDeque<Arc<Node>>>,
    /// Bytes that may still be stored, as far as is known.
    pub(super) free: AtomicU64,
    /// The stream of changes is whole: the kernel may keep what it is told.
    pub(super) live: AtomicBool,
    /// The kernel has agreed to read local files itself.
    pub(super) passthrough: AtomicBool,
    pub(super) device: RwLock<Option<Arc<Device>>>,
    pub(super) threads: Threads,
}

impl Session {
    pub fn new(options: Options) -> Arc<Session> {
        Arc::new(Session {
            options,
            tree: RwLock::new(Tree::new(now_ns())),
            misses: Misses::new(options.deadline),
            // Nanoseconds: no process gives so many handles that the next would meet them.
            answers: Answers::new(now_ns() as u64),
            notices: Queue::default(),
            pins: Pins::default(),
            ahead: Ahead::default(),
            counters: Counters::default(),
            recent: Mutex::default(),
            free: 0.into(),
            live: true.into(),
            passthrough: false.into(),
            device: RwLock::default(),
            threads: Threads::default(),
        })
    }

    /// Makes changes that nobody sees a part of, and queues what the kernel must be told.
    pub(super) fn note(&self, change: impl FnOnce(&mut Tree, &mut Batch), shown: &mut Shown) {
        let mut batch = Batch::new(now_ns());
        change(&mut self.tree.write(), &mut batch);
        self.counters.stale.fetch_add(batch.stale, Relaxed);
        self.counters
            .collisions
            .fetch_add(batch.collisions, Relaxed);
        shown.deleted |= batch.deleted;
        shown.refused.extend(batch.refused);
        self.notices.push(batch.notices);
        if self.options.no_open {
            self.hold(&batch.retired);
        }
        let retired = batch.retired.into_iter();
        self.let_go(|ready| retired.filter_map(|id| ready.take(id)).collect());
    }

    /// Where nobody says what is open: a file that was replaced counts as open until the kernel has
    /// forgotten it.
    fn hold(&self, retired: &[u64]) {
        let tree = self.tree.read();
        let files = retired.iter().filter_map(|id| tree.get(*id));
        for file in files.filter(|node| node.kind == Kind::File) {
            let path = tree.of_content(file).unwrap_or_default();
            self.pins.hold(file, &path);
        }
    }

    /// Some closed files are not to be ready any longer: `which` takes them out.
    pub(super) fn let_go(&self, which: impl FnOnce(&mut Ready) -> Vec<Pin>) {
        if let Some(device) = self.device.read().clone() {
            self.pins.let_go(which, &device);
        }
    }

    /// Starts answering on a fresh connection.
    pub fn serve(self: &Arc<Self>, fd: RawFd, table: Option<File>) -> io::Result<()> {
        let device = self.connect(fd)?;
        let table = table.map(Table::begin).transpose()?.unwrap_or_default();
        let table = Arc::new(Mutex::new(table));
        self.pins.begin(table.clone());
        self.tree.write().keep(table, Vec::new());
        self.start(device, Notices::default())
    }

    /// Goes on where a process that died has stopped.
    pub fn adopt(self: &Arc<Self>, fd: RawFd, table: Option<File>) -> io::Result<()> {
        let device = self.connect(fd)?;
        let (table, left) = match table {
            Some(file) => Table::resume(file)?,
            None => (Table::default(), Vec::new()),
        };
        let is_closed = |(_, row, node, _): &Left| row.opens == 0 && !node.is_directory();
        let (closed, left): (Vec<Left>, Vec<Left>) = left.into_iter().partition(is_closed);
        let table = Arc::new(Mutex::new(table));
        let open = self.pins.resume(table.clone(), &left);
        self.tree.write().keep(table, left);
        for id in &open {
            let node = self.tree.read().get(*id).cloned();
            if let Some(node) = node {
                self.pins.reopen(&node);
            }
        }
        // Whether the former process negotiated it is not known: the first open finds out.
        self.passthrough.store(self.options.passthrough, Relaxed);
        let notices = {
            let mut tree = self.tree.write();
            let mut notices = tree.adopt(open.into_iter(), now_ns());
            if self.options.no_open {
                tree.assume_known(&mut notices);
            }
            notices
        };
        let mut message = Message::default();
        device.resend()?;
        if device.send(message.notice(&Notice::Epoch).sealed()).is_ok() {
            self.notices.allow_epochs();
        }
        self.start(device, notices)?;
        // What was ready may be another file than its place names now. They may be many, so whoever
        // waits for an answer does not wait for them.
        let pins = closed.iter().map(|(slot, row, ..)| Pin::left(*slot, *row));
        self.let_go(|_| pins.collect());
        Ok(())
    }

    fn connect(&self, fd: RawFd) -> io::Result<Arc<Device>> {
        let mut slot = self.device.write();
        if slot.is_some() || self.threads.stopped() {
            let text = "a tree serves one connection, once";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(slot.insert(Arc::new(Device::duplicate(fd)?)).clone())
    }

    fn start(self: &Arc<Self>, device: Arc<Device>, notices: Notices) -> io::Result<()> {
        self.notices.open();
        self.notices.push(notices);
        let (session, on) = (self.clone(), device.clone());
        self.threads
            .start("dfs-fuse", move |stop| session.answer_requests(&on, stop))?;
        let (session, on) = (self.clone(), device.clone());
        self.threads
            .start("dfs-notify", move |_| session.deliver_notices(&on))?;
        let (session, on) = (self.clone(), device);
        self.threads
            .start("dfs-late", move |_| session.answer_late(&on))
    }

    fn deliver_notices(&self, device: &Device) {
        let mut message = Message::default();
        while let Some(notice) = self.notices.next() {
            // ENOENT: the kernel does not hold it, which is as good. ENODEV: unmounted.
            let sent = device.send(message.notice(&notice).sealed());
            if let (Notice::Attributes(id), Err(error)) = (notice, sent)
                && error.raw_os_error() == Some(libc::ENOENT)
            {
                let gone = self.tree.read().unknown(id);
                self.drop_if(gone, id);
            }
            self.notices.delivered();
        }
    }

    fn answer_late(&self, device: &Device) {
        let mut message = Message::default();
        while let Some(waiters) = self.misses.overdue() {
            self.counters
                .timeouts
                .fetch_add(waiters.len() as u64, Relaxed);
            for waiter in waiters {
                let _ = device.send(message.error(waiter.unique, libc::ETIMEDOUT).sealed());
            }
        }
    }

    /// Files that readers wait for and nobody has taken.
    pub fn next_misses(&self, max: usize, timeout: Duration) -> Vec<Wanted> {
        self.misses.take(max, timeout)
    }

    /// Ends a miss with the content or an errno; answers everybody who waits for it. False when it
    /// has ended already.
    pub fn fulfil(&self, miss: u64, result: Result<Come, i32>) -> bool {
        let mut failed = result.as_ref().err().copied();
        if let (Ok(come), Some(node)) = (result, self.misses.node(miss)) {
            match come {
                Come::Whole(place) => *node.place.lock() = Some(place),
                Come::Part(part) if part.size == node.size => node.place.set_part(&part),
                Come::Part(_) => failed = Some(libc::EIO),
            }
            self.pins.renew(&node);
        }
        let Some(waiters) = self.misses.end(miss, failed, Instant::now()) else {
            return false;
        };
        let Some(device) = self.device.read().clone() else {
            return true;
        };
        let mut message = Message::default();
        for waiter in waiters {
            match failed {
                Some(errno) => {
                    let errno = waiter.want.refusal(&waiter.node)(errno);
                    let _ = device.send(message.error(waiter.unique, errno).sealed());
                }
                None => self.answer_waiter(&device, &waiter, &mut message),
            }
        }
        true
    }

    /// Offers files below `.dfs/`: each open of one is a question. Not where the kernel never asks
    /// to open.
    pub fn offer(&self, names: &[String]) {
        if !self.options.no_open {
            self.tree.write().offer(names, now_ns());
        }
    }

    /// Questions that nobody has taken.
    pub fn next_questions(&self, max: usize, timeout: Duration) -> Vec<Question> {
        self.misses.take_questions(max, timeout)
    }

    /// Answers a question, or ends it with an errno. False when it has ended already.
    pub fn answer_question(&self, question: u64, result: Result<Vec<u8>, i32>) -> bool {
        let Some(waiter) = self.misses.end_question(question) else {
            return false;
        };
        if let Some(device) = self.device.read().clone() {
            self.deliver_answer(&device, &waiter, result);
        }
        true
    }

    /// Answers a question for entries of the past. False when it has ended already.
    pub fn fill(&self, question: u64, entries: &[Upsert]) -> bool {
        let Some(waiter) = self.misses.end_question(question) else {
            return false;
        };
        if let Some(device) = self.device.read().clone() {
            self.deliver_entries(&device, &waiter, entries);
        }
        true
    }

    /// What statfs says is free.
    pub fn set_free(&self, bytes: u64) {
        self.free.store(bytes, Relaxed);
    }

    /// Waits until every later look-up of a path sees all changes applied so far.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.notices.flush(timeout)
    }

    pub fn set_live(&self, live: bool) {
        self.live.store(live, Relaxed);
    }

    /// Contents opened since the last call, in the order of their last opens.
    pub fn opened(&self) -> Vec<Digest> {
        let recent = std::mem::take(&mut *self.recent.lock());
        let mut seen = HashSet::new();
        let digests = recent.iter().rev().filter_map(|node| node.place.digest);
        let mut opened: Vec<Digest> = digests.filter(|digest| seen.insert(*digest)).collect();
        opened.reverse();
        opened
    }

    pub(super) fn remember(&self, node: &Arc<Node>) {
        let mut recent = self.recent.lock();
        if recent.back().is_some_and(|last| last.id == node.id) {
            return;
        }
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(node.clone());
    }

    /// A name was told: its file is made ready if it will be opened next.
    pub(super) fn foresee(&self, device: &Device, node: &Arc<Node>) {
        if node.kind != Kind::File || !self.passthrough.load(Relaxed) {
            return;
        }
        if self.ahead.looked_up(node.id) && self.pins.may_be_made_ready(node) {
            let path = self.tree.read().of_content(node).unwrap_or_default();
            if self.pins.make_ready(node, &path, device) == Err(Trouble::Damaged) {
                self.counters.damaged.fetch_add(1, Relaxed);
            }
        }
    }

    /// False before the start, and when the kernel has ended the connection.
    pub fn running(&self) -> bool {
        self.threads.running("dfs-fuse")
    }

    /// Ends the threads; who waits gets ENOTCONN. Waits for them for a bounded time only.
    pub fn close(&self) {
        // Notices first: while one is being written somebody must still answer look-ups.
        self.notices.close();
        let waiters = self.misses.close();
        let device = self.device.write().take();
        if let Some(device) = &device {
            let mut message = Message::default();
            for waiter in waiters {
                let _ = device.send(message.error(waiter.unique, libc::ENOTCONN).sealed());
            }
        }
        self.threads.wait("dfs-notify", CLOSE_WAIT);
        self.threads.stop();
        self.threads.wait("dfs-fuse", CLOSE_WAIT);
        self.threads.wait("dfs-late", CLOSE_WAIT);
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let (totals, held, past) = {
            let tree = self.tree.read();
            (tree.totals(), tree.held(), tree.listings.entries())
        };
        let (queued, delivered) = self.notices.counts();
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let flag = |flag: &AtomicBool| u64::from(flag.load(Relaxed));
        let counters = &self.counters;
        let mut stats = vec![
            ("entries", totals.entries),
            ("bytes", totals.bytes),
            ("nodes", held as u64),
            ("past", past as u64),
            ("live", flag(&self.live)),
            (
                "passthrough",
                flag(&self.passthrough) & u64::from(!self.pins.forbidden()),
            ),
            ("epochs", u64::from(self.notices.epochs_allowed())),
            ("notices_queued", queued),
            ("notices_delivered", delivered),
            ("waiting", self.misses.waiting() as u64),
            ("requests", of(&counters.requests)),
            ("lookups", of(&counters.lookups)),
            ("opens", of(&counters.opens)),
            ("reads", of(&counters.reads)),
            ("misses", of(&counters.misses)),
            ("questions", of(&counters.questions)),
            ("answers", self.answers.held() as u64),
            ("timeouts", of(&counters.timeouts)),
            ("interrupts", of(&counters.interrupts)),
            ("damaged", of(&counters.damaged)),
            ("io_errors", of(&counters.io_errors)),
            ("malformed", of(&counters.malformed)),
            ("stale", of(&counters.stale)),
            ("collisions", of(&counters.collisions)),
        ];
        stats.extend(self.pins.counts());
        stats
    }
}

pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
