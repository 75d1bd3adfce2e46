//! One connection: a single task that reads calls, sends all answers and watches deadlines.
//!
//! Answers come through the outbox of the `Peer`, so that all that is ready leaves in one write and
//! the threads that have the answers do no HTTP/2 work.
use super::body;
use super::forward;
use super::frame::Frame;
use super::gathered::{Gathered, Hold};
use super::grpc;
use super::hot::Job;
use super::limits::{
    CONNECTION_WINDOW, ENDED_STREAM, FORWARD_BUFFER, FRAME_BYTES, IDLE, Limits,
    METADATA_HARD_FACTOR, STREAM_WINDOW, TICK,
};
use super::meter::{Metered, Verdict};
use super::peer::{Answer, Command, Cost, Peer, Ticket, What};
use super::pulse::{Pulse, now};
use super::shared::{Gauge, Shared};
use super::stream::Stream;
use super::waiting::{Entry, Waiting};
use crate::call::{Failure, Reply, Route};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep_until, timeout_at};

/// Serves a connection to its end. With a `refusal` its first call hears that, and no other.
/// The HTTP/2 preface must be complete by `by`.
pub async fn serve<T>(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    socket: T,
    refusal: Option<Failure>,
    by: tokio::time::Instant,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (socket, verdict) = Metered::new(socket);
    let hold = Hold::default();
    let socket = Gathered::new(socket, hold.clone(), shared.ticks.clone());
    let handshake = builder(&shared.limits).handshake::<_, Frame>(socket);
    let Ok(Ok(h2)) = timeout_at(by, handshake).await else {
        return;
    };
    let mut connection = Connection::new(shared, peer, h2, (hold, verdict), refusal);
    poll_fn(|cx| connection.poll(cx)).await;
}

fn builder(limits: &Limits) -> server::Builder {
    let metadata = (limits.metadata_bytes * METADATA_HARD_FACTOR) as u32;
    let streams = limits.streams_per_connection;
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(streams)
        // A client may cancel all its calls at once; cancelling without end is seen by the meter.
        .max_pending_accept_reset_streams(streams as usize)
        // Refusing all its uploads at once is no reason to end the connection either.
        .max_concurrent_reset_streams(streams as usize)
        .reset_stream_duration(ENDED_STREAM)
        .max_header_list_size(metadata)
        .max_send_buffer_size(FORWARD_BUFFER);
    builder
}

struct Connection<T> {
    h2: server::Connection<Gathered<Metered<T>>, Frame>,
    /// Of the socket, while many messages are given to h2.
    hold: Hold,
    verdict: Arc<Verdict>,
    /// The header block that was open at the last tick.
    open_block: Option<u64>,
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    refusal: Option<Failure>,
    command: Command,
    answers: Vec<Answer>,
    waiting: Waiting,
    /// Readers of bodies that come in pieces, and forwarded streams.
    tasks: JoinSet<()>,
    pulse: Pulse,
    timer: Pin<Box<Sleep>>,
    /// When the timer rings: at the next tick, or at a deadline before it.
    rings: Instant,
    tick: Instant,
    last_call: Instant,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    fn new(
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        mut h2: server::Connection<Gathered<Metered<T>>, Frame>,
        (hold, verdict): (Hold, Arc<Verdict>),
        refusal: Option<Failure>,
    ) -> Self {
        let now = now();
        let rings = now + TICK;
        Connection {
            pulse: Pulse::new(h2.ping_pong(), now),
            h2,
            hold,
            verdict,
            open_block: None,
            shared,
            peer,
            refusal,
            command: Command::Serve,
            answers: Vec::new(),
            waiting: Waiting::default(),
            tasks: JoinSet::new(),
            timer: Box::pin(sleep_until(rings.into())),
            rings,
            tick: rings,
            last_call: now,
        }
    }

    /// Ready when the connection is to be dropped.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.poll_mailbox(cx).is_ready() {
                return Poll::Ready(());
            }
            loop {
                match self.h2.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => self.take_call(request, respond),
                    Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                    Poll::Pending if self.hold.end() => {} // once more, to flush
                    Poll::Pending => break,
                }
            }
            if self.verdict.exceeded() {
                self.hang_up(Reason::ENHANCE_YOUR_CALM, cx);
                return Poll::Ready(());
            }
            while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
            while self.timer.as_mut().poll(cx).is_ready() {
                if !self.ring() {
                    self.hang_up(Reason::ENHANCE_YOUR_CALM, cx);
                    return Poll::Ready(());
                }
            }
            self.pulse.poll(cx);
            if self.peer.sleep(cx.waker(), self.command) {
                return Poll::Pending;
            }
        }
    }

    /// Sends the answers that have come and does as told.
    fn poll_mailbox(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut answers = std::mem::take(&mut self.answers);
        let command = self.peer.collect(&mut answers);
        if answers
            .iter()
            .filter(|answer| answer.is_message())
            .nth(1)
            .is_some()
        {
            self.hold.begin();
        }
        for answer in answers.drain(..) {
            self.deliver(answer);
        }
        self.answers = answers;
        if command == Command::Drain && command != self.command {
            self.h2.graceful_shutdown();
        }
        self.command = command;
        if command == Command::Close {
            self.hang_up(Reason::NO_ERROR, cx);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Says goodbye as far as the socket takes it without waiting.
    fn hang_up(&mut self, reason: Reason, cx: &mut Context<'_>) {
        self.hold.end();
        self.h2.abrupt_shutdown(reason);
        let _ = self.h2.poll_closed(cx);
    }

    // ---- a call comes ---------------------------------------------------------------------------

    fn take_call(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Frame>) {
        let now = now();
        self.last_call = now;
        if let Some(refusal) = &self.refusal {
            grpc::fail(&mut respond, refusal);
            self.h2.graceful_shutdown();
            return;
        }
        if !grpc::is_grpc(&request) {
            return self.refuse(request.into_body(), || grpc::not_grpc(respond));
        }
        let metadata = grpc::metadata_bytes(&request);
        let most = self.shared.limits.metadata_bytes;
        if metadata > most {
            let text = format!("{metadata} bytes of metadata, at most {most} are taken");
            let failure = self.shared.failure("metadata_too_large").with(text);
            return self.refuse(request.into_body(), move || {
                grpc::fail(&mut respond, &failure);
            });
        }
        match self.shared.route(request.uri().path()) {
            Some(route) => self.take_hot(route, request, respond, now),
            None if self.shared.upstream.is_some() => {
                let (shared, peer) = (self.shared.clone(), self.peer.clone());
                self.tasks
                    .spawn(forward::run(shared, peer, request, respond));
            }
            None => {
                let failure = self
                    .shared
                    .failure("unimplemented")
                    .with(request.uri().path());
                self.refuse(request.into_body(), move || {
                    grpc::fail(&mut respond, &failure);
                });
            }
        }
    }

    /// Answers a call that is refused by its headers.
    fn refuse(&mut self, mut body: RecvStream, answer: impl FnOnce() + Send + 'static) {
        if body.is_end_stream() {
            return answer();
        }
        self.tasks.spawn(async move {
            body::discard(&mut body).await;
            answer();
        });
    }

    /// Enters a hot call and hands it to the node: at once when its body is here (the usual case).
    fn take_hot(
        &mut self,
        route: Route,
        request: Request<RecvStream>,
        mut respond: SendResponse<Frame>,
        now: Instant,
    ) {
        let (head, body) = request.into_parts();
        let job = match self.admit(route, &head.headers, now) {
            Ok(job) => job,
            Err(failure) => {
                return self.refuse(body, move || grpc::fail(&mut respond, &failure));
            }
        };
        let counted = Gauge::new(&self.shared.totals, |t| &t.streams);
        let (key, serial) = self.waiting.insert(
            (job.deadline, job.ends),
            route.reads || route.streams,
            respond,
            counted,
        );
        let stream = route.streams.then(|| self.open_stream(key, serial));
        let ticket = Ticket::new(self.peer.clone(), key, serial, stream);
        let reader = job.begin(body, ticket).map(|rest| {
            let present = self.shared.census.enter();
            let reading = async move {
                let _present = present;
                rest.await;
            };
            self.tasks.spawn(reading)
        });
        let Some(entry) = self.waiting.get(key, serial) else {
            return;
        };
        if reader.is_none() {
            entry.deadline = entry.ends;
        }
        entry.reader = reader;
        let deadline = entry.deadline;
        if !entry.attend() {
            self.waiting.take(key, serial);
        }
        if let Some(deadline) = deadline.filter(|deadline| *deadline < self.rings) {
            self.set_timer(deadline);
        }
    }

    fn open_stream(&mut self, key: usize, serial: u64) -> Arc<Stream> {
        let bytes_max = self.shared.limits.stream_bytes;
        let stream = Arc::new(Stream::new(self.peer.clone(), key, serial, bytes_max));
        self.waiting.set_stream(key, stream.clone());
        stream
    }

    fn admit(&self, route: Route, headers: &HeaderMap, now: Instant) -> Result<Job, Failure> {
        // Cancelled calls stay until the node has answered them, so streams alone bound nothing.
        let most = self.shared.limits.streams_per_connection as usize;
        if self.waiting.len() >= most {
            let text = format!(
                "{most} calls of this connection are under way, at most \
                 STREAMS_PER_CONNECTION_MAX (dfs/limits.py)"
            );
            return Err(self.shared.failure("overloaded").with(text));
        }
        let job = Job::new(&self.shared, route, headers, now)?;
        self.shared.totals.calls.fetch_add(1, Relaxed);
        Ok(job)
    }

    // ---- a call goes on -------------------------------------------------------------------------

    /// The node has something for a caller, or the wire in its place.
    fn deliver(&mut self, answer: Answer) {
        let (key, serial) = (answer.key, answer.serial);
        let Some(entry) = self.waiting.get(key, serial) else {
            return;
        };
        let goes_on = match answer.what {
            What::HandedOn => {
                entry.deadline = entry.ends;
                true
            }
            What::Touched => entry.attend(),
            What::Message(frame) => {
                let bytes = frame.bytes();
                self.shared.totals.bytes_out.fetch_add(bytes, Relaxed);
                entry.message(frame)
            }
            What::Finish => {
                entry.sender.finish();
                false
            }
            What::Overfull => {
                entry.sender.fail(&overfull(&self.shared));
                false
            }
            What::Reply(reply) => {
                let reply = reply.unwrap_or_else(|| {
                    let harmless = entry.harmless;
                    let lost = if harmless {
                        "shutting_down"
                    } else {
                        "outcome_unknown"
                    };
                    Err(self.shared.failure(lost))
                });
                reply_with(&self.shared, &self.peer, entry, reply);
                false
            }
        };
        if !goes_on {
            self.waiting.take(key, serial);
        }
    }

    // ---- time passes ----------------------------------------------------------------------------

    /// The timer rings: ends overdue calls and feels the pulse. False when the client is gone.
    fn ring(&mut self) -> bool {
        let now = now();
        while let Some(mut entry) = self.waiting.take_overdue(now) {
            entry.sender.fail(&self.shared.failure("deadline"));
        }
        let mut alive = true;
        if now >= self.tick {
            alive = self.pulse.tick(now, self.last_call, self.peer.flow());
            // Between two parts of a header block nothing else can be said.
            let block = self.verdict.open_block();
            alive &= block.is_none() || block != self.open_block;
            self.open_block = block;
            let busy = self.waiting.len() > 0 || !self.tasks.is_empty();
            if !busy && now - self.last_call >= IDLE {
                self.h2.graceful_shutdown();
            }
            self.tick = now + TICK;
        }
        let next = self
            .waiting
            .earliest()
            .map_or(self.tick, |first| first.min(self.tick));
        self.set_timer(next);
        alive
    }

    fn set_timer(&mut self, rings: Instant) {
        self.rings = rings;
        self.timer.as_mut().reset(rings.into());
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.peer.leave();
    }
}

/// Ends a call with its answer, if there is memory for it.
fn reply_with(shared: &Shared, peer: &Arc<Peer>, entry: &mut Entry, reply: Reply) {
    let body = match reply {
        Ok(body) => body,
        Err(failure) => return entry.sender.fail(&failure),
    };
    // "Overloaded" says that nothing was done: of a write that would be a lie.
    if entry.harmless && !peer.has_room(Cost::alone(body.len())) {
        return entry.sender.fail(&overfull(shared));
    }
    let totals = &shared.totals;
    totals.bytes_out.fetch_add(body.len() as u64, Relaxed);
    if entry.sender.message(Frame::message(body, peer)) {
        entry.sender.finish();
    }
}

fn overfull(shared: &Shared) -> Failure {
    let text = "the answers that wait for slow readers take too much memory";
    shared.failure("overloaded").with(text)
}
