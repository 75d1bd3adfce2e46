//! A hot call between its headers and the node: what it asks for, and its body.
use super::body::{self, Gather, Message, Refusal};
use super::grpc::{self, Encoding};
use super::peer::Ticket;
use super::shared::Shared;
use crate::call::{Call, Failure, Route};
use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

pub struct Job {
    shared: Arc<Shared>,
    route: Route,
    /// For the call to be answered, or to be handed on if the answer is a stream.
    pub deadline: Instant,
    /// For all of it.
    pub ends: Option<Instant>,
    encoding: Encoding,
}

impl Job {
    /// From the headers of a call that the routes name.
    pub fn new(
        shared: &Arc<Shared>,
        route: Route,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Job, Failure> {
        let named =
            grpc::timeout(headers).map_err(|text| shared.failure("malformed").with(text))?;
        let asked = named.unwrap_or(shared.limits.deadline_default);
        if asked.is_zero() {
            return Err(shared.failure("deadline"));
        }
        let encoding =
            grpc::encoding(headers).map_err(|text| shared.failure("unimplemented").with(text))?;
        let deadline = now + asked.min(shared.limits.deadline_max);
        let ends = if route.streams {
            named.and_then(|named| now.checked_add(named))
        } else {
            Some(deadline)
        };
        Ok(Job {
            shared: shared.clone(),
            route,
            deadline,
            ends,
            encoding,
        })
    }

    /// Starts on the body. What is left to do when it is not here whole, or compressed, is returned
    /// for a task of its own.
    pub fn begin(self, stream: RecvStream, ticket: Ticket) -> Option<impl Future<Output = ()>> {
        let mut stream = stream;
        let mut gather = Gather::new(self.shared.limits.message_bytes);
        match body::read_ready(&mut gather, &mut stream) {
            Ok(false) => return Some(self.read(gather, Some(stream), ticket)),
            Ok(true) if self.encoding != Encoding::Identity => {
                return Some(self.read(gather, None, ticket));
            }
            Ok(true) => match gather.finish() {
                Ok(Message {
                    compressed: false,
                    body,
                }) => self.hand_on(body, ticket),
                Ok(_) => self.refuse(Refusal::Malformed(body::NO_ENCODING), ticket),
                Err(refusal) => self.refuse(refusal, ticket),
            },
            Err(refusal) => self.refuse(refusal, ticket),
        }
        None
    }

    /// Waits for the rest of the body, expands it if needed, hands it on.
    async fn read(self, gather: Gather, stream: Option<RecvStream>, ticket: Ticket) {
        let message = match stream {
            Some(stream) => body::read(gather, stream, ticket.peer().clone()).await,
            None => gather.finish(),
        };
        let whole = match message {
            Ok(Message {
                compressed: false,
                body,
            }) => Ok(body),
            Ok(Message { body, .. }) => self.expand(body).await,
            Err(refusal) => Err(refusal),
        };
        match whole {
            Ok(body) => {
                ticket.handed_on();
                self.hand_on(body, ticket);
            }
            Err(refusal) => self.refuse(refusal, ticket),
        }
    }

    /// Off the network threads: Raft's heartbeats are sent from them.
    async fn expand(&self, body: Bytes) -> Result<Bytes, Refusal> {
        let (encoding, most) = (self.encoding, self.shared.limits.message_bytes);
        let turn = self
            .shared
            .inflate
            .acquire()
            .await
            .map_err(|_| Refusal::CallerGone)?;
        let work = move || body::inflate(&body, encoding, most);
        let expanded = tokio::task::spawn_blocking(work).await;
        drop(turn);
        expanded.unwrap_or(Err(Refusal::CallerGone))
    }

    fn hand_on(self, body: Bytes, ticket: Ticket) {
        self.shared
            .totals
            .bytes_in
            .fetch_add(body.len() as u64, Relaxed);
        self.shared.handler.call(Call {
            method: self.route.method,
            read: self.route.reads,
            body,
            deadline: self.deadline,
            outlet: ticket.outlet(),
            answer: Box::new(move |reply| ticket.answer(reply)),
        });
    }

    fn refuse(&self, refusal: Refusal, ticket: Ticket) {
        ticket.answer(Err(refusal.failure(&self.shared)));
    }
}
