//! Contents of the tree, each once, however many paths show it.
use super::part::Part;
use parking_lot::{Mutex, MutexGuard};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::ffi::CStr;
use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

/// SHA-256.
pub type Digest = [u8; 32];

/// Where a content is, if it is here. Of symlinks: the target.
#[derive(Default)]
pub struct Place {
    /// None: nobody else shows it.
    pub digest: Option<Digest>,
    /// How many nodes have it, those included that only the kernel knows; changes under the tree's
    /// write lock.
    nodes: AtomicU32,
    at: Mutex<Option<Arc<CStr>>>,
    /// Where some chunks of it are, while somebody fetches or reads them.
    part: Mutex<Weak<Part>>,
}

impl Place {
    /// A place for one node alone.
    pub fn of_one(at: Option<Arc<CStr>>) -> Arc<Place> {
        Arc::new(Place {
            at: at.into(),
            ..Place::default()
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, Option<Arc<CStr>>> {
        self.at.lock()
    }

    /// What is here of a content that is not whole.
    pub fn part(&self) -> Option<Arc<Part>> {
        self.part.lock().upgrade()
    }

    pub fn set_part(&self, part: &Arc<Part>) {
        *self.part.lock() = Arc::downgrade(part);
    }
}

/// A place in the table, found by its digest.
struct Shared(Arc<Place>);

impl Borrow<Digest> for Shared {
    fn borrow(&self) -> &Digest {
        self.0.digest.as_ref().expect("only those with a digest")
    }
}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let digest: &Digest = self.borrow();
        digest.hash(state);
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Shared) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for Shared {}

/// The contents that somebody may open: paths of the tree show them, or the kernel still knows a
/// node that was replaced.
#[derive(Default)]
pub struct Contents {
    table: HashSet<Shared>,
    /// Those that a node has ceased to have since the last `settle`: the next one may have them.
    left: Vec<Arc<Place>>,
}

impl Contents {
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Place>> {
        self.table.get(digest).map(|shared| &shared.0)
    }

    /// One more node has it.
    pub fn share(&mut self, digest: Digest) -> Arc<Place> {
        let place = match self.get(&digest) {
            Some(place) => place.clone(),
            None => {
                let place = Arc::new(Place {
                    digest: Some(digest),
                    ..Place::default()
                });
                self.table.insert(Shared(place.clone()));
                place
            }
        };
        place.nodes.fetch_add(1, Relaxed);
        place
    }

    /// One node less has it.
    pub fn leave(&mut self, place: &Arc<Place>) {
        if place.digest.is_some() && place.nodes.fetch_sub(1, Relaxed) == 1 {
            self.left.push(place.clone());
        }
    }

    /// Forgets what no node has any more, and says what that is.
    pub fn settle(&mut self) -> Vec<Digest> {
        let mut gone = Vec::new();
        for place in std::mem::take(&mut self.left) {
            if place.nodes.load(Relaxed) == 0
                && let Some(digest) = place.digest
                && self.table.remove(&digest)
            {
                gone.push(digest);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_the_same_content_share_its_place() {
        let mut contents = Contents::default();
        let (one, two) = (contents.share([1; 32]), contents.share([1; 32]));
        *one.lock() = Some(c"/objects/1".into());
        assert_eq!(two.lock().as_deref(), Some(c"/objects/1"));
        assert!(contents.get(&[2; 32]).is_none());
    }

    #[test]
    fn a_content_goes_with_the_last_path_unless_another_comes_at_once() {
        let mut contents = Contents::default();
        let (one, _two) = (contents.share([1; 32]), contents.share([1; 32]));
        contents.leave(&one);
        assert!(contents.settle().is_empty());
        contents.leave(&one);
        let moved = contents.share([1; 32]);
        assert!(contents.settle().is_empty());
        assert!(Arc::ptr_eq(&one, &moved), "what is known of it stays");
        contents.leave(&moved);
        assert_eq!(contents.settle(), [[1; 32]]);
        assert!(contents.get(&[1; 32]).is_none());
        contents.leave(&Place::of_one(None));
        assert!(contents.settle().is_empty());
    }
}
