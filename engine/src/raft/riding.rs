//! Commits that ride on the entries behind them.
//!
//! openraft tells a follower of each commit at once, by a request without entries when there are
//! none to send. Where writes follow each other closely that doubles the messages, and each costs
//! as much as one with entries. So where entries tend to follow, a request without any waits a
//! little for them: what it says stands in theirs, too. Where they do not, nothing waits.
//!
//! A request that others have overtaken is dropped: openraft takes the answers in order, and one to
//! a later request settles all before it (`drain_acked` of its queue of requests in flight).
use super::types::AppendRequest;
use crate::ticks::{Tick, Ticks};
use futures::stream::{FusedStream, Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// So long a commit waits for entries, and at most one tick longer: about as long as a write takes
/// on a fast disk. From one tick to the next it is as long.
pub const WAIT: Duration = Duration::from_millis(1);

struct Held {
    request: AppendRequest,
    since: Instant,
    tick: Tick,
}

/// The requests of a session without those that need not be sent.
pub struct Riding<S> {
    requests: S,
    ticks: Arc<Ticks>,
    /// A request without entries that waits.
    held: Option<Held>,
    /// When the last request without entries came.
    commit: Option<Instant>,
    /// Entries followed the last commit in time: they probably will again.
    dense: bool,
}

impl<S> Riding<S> {
    pub fn new(requests: S, ticks: Arc<Ticks>) -> Riding<S> {
        Riding {
            requests,
            ticks,
            held: None,
            commit: None,
            dense: false,
        }
    }

    /// Decides about a request that has come: returned, it is to be sent now.
    fn decide(&mut self, request: AppendRequest) -> Option<AppendRequest> {
        let now = Instant::now();
        if !request.entries.is_empty() {
            self.dense = self.commit.take().is_some_and(|t| now - t <= WAIT);
            self.held = None;
            return Some(request);
        }
        self.commit = Some(now);
        if !self.dense {
            return Some(request);
        }
        match &mut self.held {
            Some(held) => held.request = request,
            none => {
                *none = Some(Held {
                    request,
                    since: now,
                    tick: self.ticks.next(),
                });
            }
        }
        None
    }

    /// Ready when what is held has waited long enough.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(held) = &mut self.held else {
            return Poll::Pending;
        };
        while held.tick.as_mut().poll(cx).is_ready() {
            if held.since.elapsed() >= WAIT {
                self.dense = false;
                return Poll::Ready(());
            }
            held.tick = self.ticks.next();
        }
        Poll::Pending
    }
}

impl<S: FusedStream<Item = AppendRequest> + Unpin> Stream for Riding<S> {
    type Item = AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AppendRequest>> {
        while !self.requests.is_terminated() {
            match self.requests.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) => {
                    if let Some(request) = self.decide(request) {
                        return Poll::Ready(Some(request));
                    }
                }
                Poll::Ready(None) => break,
                Poll::Pending => {
                    if self.poll_held(cx).is_pending() {
                        return Poll::Pending;
                    }
                    break;
                }
            }
        }
        // The time is up, or the requests have ended.
        Poll::Ready(self.held.take().map(|held| held.request))
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Command, Entry, LogId, Payload, Vote};
    use super::*;
    use bytes::Bytes;
    use tokio::sync::mpsc::{Sender, channel};
    use tokio::time::{sleep, timeout};

    fn at(index: u64) -> LogId {
        LogId {
            leader_id: *Vote::new_committed(1, 1).leader_id(),
            index,
        }
    }

    /// Tells of a commit; with entries if `entry` is not 0.
    fn request(commit: u64, entry: u64) -> AppendRequest {
        let entries = (entry > 0).then(|| Entry {
            log_id: at(entry),
            payload: Payload::Normal(Command(Bytes::new())),
        });
        AppendRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            leader_commit: Some(at(commit)),
            entries: entries.into_iter().collect(),
        }
    }

    type Requests = Pin<Box<dyn Stream<Item = AppendRequest> + Send>>;

    fn session() -> (Sender<AppendRequest>, Requests) {
        let (tx, mut rx) = channel(4);
        let requests = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
        let ticks = Ticks::new(WAIT);
        tokio::spawn(ticks.clone().run());
        (tx, Box::pin(Riding::new(requests.fuse(), ticks)))
    }

    /// Commit and count of entries.
    fn told(sent: AppendRequest) -> (u64, usize) {
        (sent.leader_commit.unwrap().index, sent.entries.len())
    }

    /// What is sent within `WAIT` / 2.
    async fn soon(requests: &mut Requests) -> Option<(u64, usize)> {
        Some(told(
            timeout(WAIT / 2, requests.next()).await.ok()?.unwrap(),
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn commits_wait_only_where_entries_tend_to_follow() {
        let (tx, mut requests) = session();
        for index in 1..4 {
            tx.try_send(request(index, 0)).unwrap();
            assert_eq!(
                soon(&mut requests).await,
                Some((index, 0)),
                "nothing is known"
            );
            sleep(2 * WAIT).await;
            tx.try_send(request(index, index + 1)).unwrap();
            assert_eq!(soon(&mut requests).await, Some((index, 1)));
        }
        tx.try_send(request(4, 0)).unwrap();
        assert_eq!(soon(&mut requests).await, Some((4, 0)), "they came late");
        tx.try_send(request(4, 5)).unwrap();
        assert_eq!(soon(&mut requests).await, Some((4, 1)));
        for index in 5..9 {
            tx.try_send(request(index, 0)).unwrap();
            assert_eq!(soon(&mut requests).await, None, "it waits for entries");
            tx.try_send(request(index, index + 1)).unwrap();
            assert_eq!(soon(&mut requests).await, Some((index, 1)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_nothing_follows_is_told_soon() {
        let (tx, mut requests) = session();
        for (commit, entry) in [(1, 0), (1, 2), (2, 0), (3, 0)] {
            tx.try_send(request(commit, entry)).unwrap();
        }
        assert_eq!(soon(&mut requests).await, Some((1, 0)));
        assert_eq!(soon(&mut requests).await, Some((1, 1)));
        let asked = Instant::now();
        let sent = requests.next().await.unwrap();
        assert_eq!(told(sent), (3, 0), "the newest of them, once");
        assert!((WAIT..=2 * WAIT).contains(&asked.elapsed()));
        tx.try_send(request(4, 0)).unwrap();
        assert_eq!(
            soon(&mut requests).await,
            Some((4, 0)),
            "the next does not wait"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_told_when_the_requests_end() {
        let (tx, requests) = session();
        for (commit, entry) in [(1, 0), (1, 2), (2, 0)] {
            tx.try_send(request(commit, entry)).unwrap();
        }
        drop(tx);
        let sent: Vec<_> = requests.map(told).collect().await;
        assert_eq!(sent, [(1, 0), (1, 1), (2, 0)]);
    }
}
