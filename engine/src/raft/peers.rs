//! What is known of the other nodes: when each was last heard, what went wrong, idle connections.
use super::hello::Frames;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Idle control connections kept for each peer: heartbeats and, at once, a round of reads for each
/// node that asks this leader.
const IDLE_MAX: usize = 8;
/// Connections to a peer that are made also when nobody waits for them any more.
const DIALS_MAX: usize = 2;

/// After a failed dial; doubles up to the second. openraft calls again at once.
const PAUSE_MS_MIN: u64 = 20;
const PAUSE_MS_MAX: u64 = 640;

struct Peer {
    heard: Option<Instant>,
    /// The last error and since when there has been nothing but errors.
    error: Option<(String, Instant)>,
    idle: Vec<Frames>,
    dials: usize,
    /// How long it took to confirm the leader when it was last asked.
    pace: Duration,
    /// Raised to make the append session begin anew.
    session: watch::Sender<u64>,
    /// Told each time that the peer is heard.
    voice: Arc<Notify>,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer {
            heard: None,
            error: None,
            idle: Vec::new(),
            dials: 0,
            pace: Duration::ZERO,
            session: watch::channel(0).0,
            voice: Arc::default(),
        }
    }
}

/// A peer as status and error texts show it.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    pub heard: Option<Instant>,
    pub error: Option<(String, Instant)>,
}

/// All peers by id.
#[derive(Default)]
pub struct Peers {
    peers: Mutex<HashMap<u64, Peer>>,
}

impl Peers {
    fn with<T>(&self, id: u64, f: impl FnOnce(&mut Peer) -> T) -> T {
        f(self.peers.lock().entry(id).or_default())
    }

    /// It answered, or asked.
    pub fn heard(&self, id: u64) {
        self.with(id, |p| {
            p.heard = Some(Instant::now());
            p.error = None;
            p.voice.notify_waiters();
        });
    }

    /// For who waits for the peer to be heard.
    pub fn voice(&self, id: u64) -> Arc<Notify> {
        self.with(id, |p| p.voice.clone())
    }

    pub fn failed(&self, id: u64, text: String) {
        self.with(id, |p| {
            let since = p.error.as_ref().map_or_else(Instant::now, |e| e.1);
            p.error = Some((text, since));
        });
    }

    pub fn contact(&self, id: u64) -> Contact {
        self.with(id, |p| Contact {
            heard: p.heard,
            error: p.error.clone(),
        })
    }

    /// Zero for a peer that has not been asked; the longest there is when it has failed.
    pub fn pace(&self, id: u64) -> Duration {
        self.with(id, |p| p.pace)
    }

    pub fn set_pace(&self, id: u64, pace: Duration) {
        self.with(id, |p| p.pace = pace);
    }

    pub fn take_idle(&self, id: u64) -> Option<Frames> {
        self.with(id, |p| p.idle.pop())
    }

    pub fn keep_idle(&self, id: u64, frames: Frames) {
        self.with(id, |p| {
            if p.idle.len() < IDLE_MAX {
                p.idle.push(frames);
            }
        });
    }

    /// Whether one more connection may be made that outlives its asker; then `end_dial` follows.
    pub fn begin_dial(&self, id: u64) -> bool {
        self.with(id, |p| {
            let few = p.dials < DIALS_MAX;
            p.dials += usize::from(few);
            few
        })
    }

    pub fn end_dial(&self, id: u64) {
        self.with(id, |p| p.dials = p.dials.saturating_sub(1));
    }

    /// Idle connections to a peer that broke one are broken too.
    pub fn drop_idle(&self, id: u64) {
        self.with(id, |p| p.idle.clear());
    }

    /// Changes when the append session is to begin anew.
    pub fn session(&self, id: u64) -> watch::Receiver<u64> {
        self.with(id, |p| p.session.subscribe())
    }

    pub fn reset_session(&self, id: u64) {
        self.with(id, |p| p.session.send_modify(|n| *n += 1));
    }

    /// Forgets everything, idle connections included.
    pub fn clear(&self) {
        self.peers.lock().clear();
    }
}

/// Returns when a peer is to be dialled again after so many failed dials: soon where it is `heard`
/// (see `Peers::voice`), as it may have been started again and lack what it has missed.
pub async fn pause(failed_dials: u32, heard: impl Future<Output = ()>) {
    let pause_ms = (PAUSE_MS_MIN << failed_dials.min(5)).min(PAUSE_MS_MAX);
    // Who is heard all the time and yet cannot be dialled is not dialled all the time.
    tokio::time::sleep(Duration::from_millis(PAUSE_MS_MIN)).await;
    let left = Duration::from_millis(pause_ms - PAUSE_MS_MIN);
    let _ = tokio::time::timeout(left, heard).await;
}

#[cfg(test)]
mod tests {
    use super::{Peers, pause};
    use std::future::pending;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_dialled_after_ever_longer_pauses_and_when_it_is_heard() {
        let now = tokio::time::Instant::now;
        for (failed_dials, pause_ms) in [(0, 20), (1, 40), (4, 320), (5, 640), (40, 640)] {
            let begun = now();
            pause(failed_dials, pending()).await;
            let took_ms = begun.elapsed().as_millis();
            assert!((pause_ms..pause_ms + 5).contains(&took_ms), "{took_ms}");
        }
        let peers = Peers::default();
        let (voice, another) = (peers.voice(1), peers.voice(2));
        let (heard, not_heard, begun) = (voice.notified(), another.notified(), now());
        peers.heard(1); // before anybody waits
        pause(5, heard).await;
        assert!(begun.elapsed() < Duration::from_millis(25));
        pause(5, not_heard).await;
        assert!(begun.elapsed() >= Duration::from_millis(660));
    }
}
