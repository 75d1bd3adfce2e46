//! openraft's state machine: hands batches to Python through the queue and takes results back.
use super::codec::{log_id_bytes, membership_bytes};
use super::progress::Progress;
use super::queue::{Batch, Item, Queue, WorkHandle, WorkKind};
use super::snapshot::{Snapshot, Snapshots};
use super::types::*;
use crate::records::entry::operations;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Bounds of one batch: what the store writes at once. It ends behind an entry that may write
/// subtrees, too: of those one alone may be as much as can be written at once.
const BATCH_OPERATIONS_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 4 << 20;

type Responder = openraft::storage::ApplyResponder<Types>;

/// See the module's text.
pub struct Machine {
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    snapshots: Snapshots,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// Entries on their way to Python as one batch.
#[derive(Default)]
struct Gathered {
    items: Vec<Item>,
    responders: Vec<Option<Responder>>,
    bytes: usize,
    operations: usize,
    /// The last of them may write more than it holds.
    heavy: bool,
    membership: Bytes,
}

impl Gathered {
    fn full(&self) -> bool {
        self.heavy || self.operations >= BATCH_OPERATIONS_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

fn gone() -> io::Error {
    io::Error::other("Python went away while it applied entries")
}

impl Machine {
    pub fn new(
        queue: Arc<Queue>,
        progress: Arc<Progress>,
        snapshots: Snapshots,
        last: Option<LogId>,
        membership: StoredMembership,
    ) -> Machine {
        progress.advance(last.map_or(0, |l| l.index));
        Machine {
            queue,
            progress,
            snapshots,
            last,
            membership,
        }
    }

    fn gather(&mut self, to: &mut Gathered, entry: Entry, responder: Option<Responder>) {
        self.last = Some(entry.log_id);
        let (payload, wanted) = match entry.payload {
            Payload::Normal(command) => (command.0, responder.is_some()),
            Payload::Blank => (Bytes::new(), false),
            Payload::Membership(m) => {
                self.membership = StoredMembership::new(Some(entry.log_id), m);
                to.membership = membership_bytes(&self.membership);
                (Bytes::new(), false)
            }
        };
        to.bytes += payload.len();
        let operations = operations(&payload);
        to.heavy = operations.is_none();
        to.operations += operations.unwrap_or(1);
        to.items.push((entry.log_id.index, payload, wanted));
        to.responders.push(responder);
    }

    async fn flush(&mut self, gathered: &mut Gathered) -> io::Result<()> {
        let Gathered {
            items,
            responders,
            membership,
            ..
        } = std::mem::take(gathered);
        let Some(last) = self.last.filter(|_| !items.is_empty()) else {
            return Ok(());
        };
        let batch = Batch {
            items,
            log_id: log_id_bytes(&last),
            membership,
        };
        let results = self.queue.apply(batch).await.map_err(|_| gone())?;
        // Before anybody hears of a write, so that no read here can be behind what was heard.
        self.progress.advance(last.index);
        for (responder, result) in responders.into_iter().zip(results) {
            if let Some(responder) = responder {
                responder.send(Applied(result));
            }
        }
        Ok(())
    }

    /// What is applied becomes the current snapshot, without a file.
    pub fn mark(&self) -> io::Result<()> {
        self.snapshots.mark(self.meta())
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }

    /// Asks Python to pin its state now; nothing is applied until it has. The file comes later.
    pub async fn pin(&mut self) -> io::Result<Pinned> {
        let index = self.last.map_or(0, |l| l.index);
        let path = self.snapshots.fresh_path(index);
        let text = path.display().to_string();
        let mut work = self.queue.work(WorkKind::Snapshot, text, Bytes::new());
        let meta = self.meta();
        tokio::select! {
            biased; // a quick Python has done both already
            frozen = &mut work.frozen => frozen.map_err(|_| gone())?,
            early = &mut work.finished => return Err(failure(early)),
        }
        Ok(Pinned {
            path,
            meta,
            work,
            snapshots: self.snapshots.clone(),
        })
    }
}

fn failure(reply: Result<crate::call::Reply, tokio::sync::oneshot::error::RecvError>) -> io::Error {
    match reply {
        Ok(Err(failure)) => io::Error::other(failure.message),
        Ok(Ok(_)) => io::Error::other("Python finished before it was ready"),
        Err(_) => gone(),
    }
}

/// A view of the state that Python holds and writes to a file.
pub struct Pinned {
    path: PathBuf,
    meta: SnapshotMeta,
    work: WorkHandle,
    snapshots: Snapshots,
}

impl Pinned {
    /// Waits for the file and makes it the current snapshot.
    pub async fn complete(self) -> io::Result<Snapshot> {
        let Pinned {
            path,
            meta,
            work,
            snapshots,
        } = self;
        match work.finished.await {
            Ok(Ok(_)) => {}
            other => {
                let _ = std::fs::remove_file(&path); // may not exist; swept at the next start
                return Err(failure(other));
            }
        }
        tokio::task::spawn_blocking(move || snapshots.complete(&path, meta))
            .await
            .map_err(io::Error::other)?
    }
}

/// Either a snapshot that is there already, or one to be made.
pub enum Builder {
    Ready(Box<Snapshot>),
    Pinned(Option<Box<Pinned>>),
    Failed(Option<io::Error>),
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<Types, Snapshot>> {
        let snapshot = match self {
            Builder::Ready(snapshot) => (**snapshot).clone(),
            Builder::Pinned(pinned) => pinned.take().ok_or_else(gone)?.complete().await?,
            Builder::Failed(error) => return Err(error.take().unwrap_or_else(gone)),
        };
        Ok(openraft::Snapshot {
            meta: snapshot.meta.clone(),
            snapshot,
        })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut gathered = Gathered::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.gather(&mut gathered, entry, responder);
            if gathered.full() {
                self.flush(&mut gathered).await?;
            }
        }
        self.flush(&mut gathered).await
    }

    /// The engine makes snapshots itself (a failed build must not stop the node) and then triggers
    /// openraft, which finds the finished one here. One that has arrived and is yet to be installed
    /// is none of ours: openraft would count it as installed, and not install it.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if !force {
            let current = self.snapshots.current();
            return current
                .filter(|s| s.meta.last_log_id <= self.last)
                .map(|s| Builder::Ready(Box::new(s)));
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        match self.pin().await {
            Ok(pinned) => Builder::Pinned(Some(Box::new(pinned))),
            Err(error) => Builder::Failed(Some(error)),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: Snapshot) -> io::Result<()> {
        self.snapshots.ensure(&file)?;
        let mut data = bytes::BytesMut::new();
        let id = meta
            .last_log_id
            .as_ref()
            .map(log_id_bytes)
            .unwrap_or_default();
        super::codec::put_bytes(&mut data, &id);
        super::codec::put_bytes(&mut data, &membership_bytes(&meta.last_membership));
        let text = file.path.display().to_string();
        let work = self.queue.work(WorkKind::Install, text, data.freeze());
        let finished = work.finished.await;
        self.queue.forget_answers(false); // before anybody reads the new state
        match finished {
            Ok(Ok(_)) => {}
            other => return Err(failure(other)),
        }
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.progress.installed(self.last.map_or(0, |l| l.index));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<Types, Snapshot>>> {
        Ok(self.snapshots.current().map(|s| openraft::Snapshot {
            meta: s.meta.clone(),
            snapshot: s,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> Option<LogId> {
        let leader_id = LeaderId {
            term: 1,
            node_id: 1,
        };
        Some(LogId { leader_id, index })
    }

    #[tokio::test]
    async fn a_snapshot_that_has_arrived_is_no_state_of_here_before_it_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let mut machine = Machine::new(
            Arc::new(Queue::new(0)),
            Arc::default(),
            snapshots.clone(),
            id(5),
            StoredMembership::default(),
        );
        let file = dir.path().join("arrived.part");
        std::fs::write(&file, b"state").unwrap();
        let meta = SnapshotMeta {
            last_log_id: id(9),
            last_membership: StoredMembership::default(),
        };
        snapshots.complete(&file, meta).unwrap();
        assert_eq!(snapshots.current().unwrap().index(), 9);
        assert!(machine.try_create_snapshot_builder(false).await.is_none());
        machine.mark().unwrap();
        assert!(machine.try_create_snapshot_builder(false).await.is_none());

        machine.last = id(9); // installed
        let mut builder = machine.try_create_snapshot_builder(false).await.unwrap();
        let built = builder.build_snapshot().await.unwrap();
        assert_eq!(built.meta.last_log_id, id(9));
    }
}
