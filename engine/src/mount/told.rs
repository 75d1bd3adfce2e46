//! What a node tells of its tree: asked for contents, then shown.
use super::change::Batch;
use super::content::Digest;
use super::feed::Entry;
use super::ready::Ready;
use super::session::Session;
use super::tree::Tree;
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::sync::Arc;

/// Changes under one hold of the tree's lock: lookups never wait long.
const CHANGES_PER_LOCK: usize = 512;
/// So many that come in one call are seen together all the same: the largest revision
/// (`TRANSACTION_CHANGES_MAX`) and what came with it (`FEED_ITEMS_MAX`). Lookups wait for some tens
/// of milliseconds then.
const CHANGES_TOGETHER: usize = 25_000;

/// What became of what was told.
#[derive(Default)]
pub struct Shown {
    /// Something was taken away.
    pub deleted: bool,
    /// Contents that nobody can open any more.
    pub left: Vec<Digest>,
    /// Paths that cannot be shown, and why.
    pub refused: Vec<(String, &'static str)>,
}

/// A content of what was told: its size, and itself if it came along.
pub type Content<'a> = (Digest, u64, Option<&'a [u8]>);

impl Session {
    /// Of what was told: contents that are not known to be here, each once, with their size and
    /// themselves, if they came along.
    pub fn contents<'a>(&self, told: &[Entry<'a>]) -> Vec<Content<'a>> {
        let tree = self.tree.read();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for entry in told {
            let Some((digest, size)) = entry.content() else {
                continue;
            };
            let known = tree.contents.get(&digest);
            let absent = known.is_none_or(|place| place.lock().is_none());
            let news = known.is_none() || (absent && entry.data.is_some());
            if news && seen.insert(digest) {
                found.push((digest, size, entry.data));
            }
        }
        found
    }

    /// Shows what was told: nobody sees a part of it, unless it is very much. `places`: where
    /// contents of it are. `snapshot`: all of it belongs to one.
    pub fn show(
        &self,
        told: &[Entry<'_>],
        places: Vec<(Digest, Arc<CStr>)>,
        snapshot: bool,
    ) -> Shown {
        let mut shown = Shown::default();
        let together = if told.len() <= CHANGES_TOGETHER {
            CHANGES_TOGETHER
        } else {
            CHANGES_PER_LOCK
        };
        let mut places: HashMap<Digest, Arc<CStr>> = places.into_iter().collect();
        for part in told.chunks(together) {
            let take = |tree: &mut Tree, batch: &mut Batch| {
                batch.snapshot = snapshot;
                tree.take(part, batch);
                for (digest, _) in part.iter().filter_map(Entry::content) {
                    if let Some(at) = places.remove(&digest)
                        && let Some(place) = tree.contents.get(&digest)
                    {
                        *place.lock() = Some(at);
                    }
                }
            };
            self.note(take, &mut shown);
        }
        shown.left = self.tree.write().contents.settle();
        shown
    }

    /// A snapshot begins: what it does not tell of is gone at its end.
    pub fn begin_snapshot(&self) {
        self.tree.write().begin_snapshot();
    }

    /// The snapshot has been shown as a whole: takes away what it did not tell of.
    pub fn end_snapshot(&self) -> Shown {
        let mut shown = Shown::default();
        let gone = self.tree.read().unseen();
        for paths in gone.chunks(CHANGES_PER_LOCK) {
            let delete = |tree: &mut Tree, batch: &mut Batch| {
                paths.iter().for_each(|path| tree.delete(path, batch));
            };
            self.note(delete, &mut shown);
        }
        shown.left = self.tree.write().contents.settle();
        shown
    }

    /// Contents that nobody can open any more, since the kernel has forgotten what had them.
    pub fn left(&self) -> Vec<Digest> {
        self.tree.write().contents.settle()
    }

    /// Sets or clears where contents are, for all who have them. Returns how many somebody has.
    pub fn place_contents(&self, places: Vec<(Digest, Option<Arc<CStr>>)>) -> usize {
        let hides = places.iter().any(|(_, at)| at.is_none());
        let mut shown = 0;
        for (digest, at) in places {
            if let Some(place) = self.tree.read().contents.get(&digest) {
                *place.lock() = at;
                shown += 1;
            }
        }
        if hides {
            self.let_go(Ready::take_hidden);
        }
        shown
    }
}

#[cfg(test)]
#[path = "tests/told.rs"]
mod tests;
