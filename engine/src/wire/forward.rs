//! A call that is not hot: one stream here, one upstream, and everything carried across.
//!
//! Bytes are taken from one side only when the other has room for them, so a slow caller slows its
//! server down and costs bounded memory. Either side that ends the stream early ends both.
use super::body::{Follow, Refusal};
use super::frame::Frame;
use super::grpc;
use super::peer::Peer;
use super::shared::{Gauge, Shared};
use super::upstream::Unreachable;
use crate::call::Failure;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, Scheme, Uri};
use http::{Request, Response};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// gRPC codes that the transport itself gives (the table of "HTTP2 error codes" of the protocol).
const CANCELLED: u32 = 1;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// Carries a call to its end. Dropped, it cancels the call on both sides.
pub async fn run(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Frame>,
) {
    let _present = shared.census.enter();
    let _counted = Gauge::new(&shared.totals, |t| &t.streams);
    shared.totals.calls.fetch_add(1, Relaxed);
    let Some(upstream) = &shared.upstream else {
        return;
    };
    let (head, body) = request.into_parts();
    let whole = body.is_end_stream();
    // What was cancelled at once costs the server nothing.
    let opened = tokio::select! {
        biased;
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
        opened = upstream.send(outgoing(head), whole) => opened,
    };
    let (_lease, response, sender) = match opened {
        Ok(opened) => opened,
        Err(Unreachable::Down(text)) => {
            return grpc::fail(&mut respond, &refusal(UNAVAILABLE, text));
        }
        Err(Unreachable::Full) => {
            let text = "too many streams are open on this node";
            return grpc::fail(&mut respond, &shared.failure("overloaded").with(text));
        }
    };
    let refused = {
        let mut upload = pin!(upload(&shared, peer, body, sender));
        let mut download = pin!(download(&shared, response, &mut respond));
        let mut uploading = !whole;
        loop {
            tokio::select! {
                ended = &mut upload, if uploading => match ended {
                    Ended::Done => uploading = false,
                    Ended::CallerGone => return,
                    Ended::Refused(refusal) => break refusal,
                },
                () = &mut download => return,
            }
        }
    };
    // Where an answer has begun, that is broken off instead.
    grpc::fail(&mut respond, &refused.failure(&shared));
}

/// The same request with what a client must name.
fn outgoing(mut head: http::request::Parts) -> Request<()> {
    let mut uri = head.uri.into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority
        .get_or_insert(Authority::from_static("localhost"));
    head.uri = Uri::from_parts(uri).unwrap_or_default();
    head.version = http::Version::HTTP_2;
    Request::from_parts(head, ())
}

enum Ended {
    /// All has been sent, or upstream wants no more: its answer says the rest.
    Done,
    CallerGone,
    /// The caller sends what is not taken.
    Refused(Refusal),
}

async fn upload(
    shared: &Shared,
    peer: Arc<Peer>,
    mut body: RecvStream,
    mut out: SendStream<Frame>,
) -> Ended {
    let mut messages = Follow::new(shared.limits.message_bytes, peer);
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else {
            return Ended::CallerGone;
        };
        let bytes = chunk.len();
        if let Err(refusal) = messages.pass(&chunk) {
            return Ended::Refused(refusal);
        }
        shared.totals.bytes_in.fetch_add(bytes as u64, Relaxed);
        if !send_all(&mut out, chunk).await {
            return Ended::Done;
        }
        let _ = body.flow_control().release_capacity(bytes);
    }
    let sent = match body.trailers().await {
        Ok(Some(trailers)) => out.send_trailers(trailers),
        Ok(None) => out.send_data(Frame::raw(Bytes::new()), true),
        Err(_) => return Ended::CallerGone,
    };
    drop(sent); // fails when upstream has ended the stream, which its answer says
    Ended::Done
}

async fn download(shared: &Shared, response: ResponseFuture, respond: &mut SendResponse<Frame>) {
    let answered = tokio::select! {
        answered = response => answered,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let (head, mut body) = match answered {
        Ok(response) => response.into_parts(),
        Err(e) => return grpc::fail(respond, &broken(shared, &e)),
    };
    let end = body.is_end_stream();
    let Ok(mut out) = respond.send_response(Response::from_parts(head, ()), end) else {
        return;
    };
    if end {
        return;
    }
    let ended = carry(shared, &mut body, &mut out).await;
    // What fails from here on fails because the caller is gone.
    let _ = match ended {
        None => return,
        Some(Ok(())) => match body.trailers().await {
            Ok(Some(trailers)) => out.send_trailers(trailers),
            Ok(None) => out.send_data(Frame::raw(Bytes::new()), true),
            Err(e) => out.send_trailers(grpc::trailers(&broken(shared, &e))),
        },
        Some(Err(e)) => out.send_trailers(grpc::trailers(&broken(shared, &e))),
    };
}

/// Carries the data of an answer. None when the caller is gone.
async fn carry(
    shared: &Shared,
    body: &mut RecvStream,
    out: &mut SendStream<Frame>,
) -> Option<Result<(), h2::Error>> {
    loop {
        let next = tokio::select! {
            next = body.data() => next,
            _ = poll_fn(|cx| out.poll_reset(cx)) => return None,
        };
        let chunk = match next {
            None => return Some(Ok(())),
            Some(Err(e)) => return Some(Err(e)),
            Some(Ok(chunk)) => chunk,
        };
        let bytes = chunk.len();
        shared.totals.bytes_out.fetch_add(bytes as u64, Relaxed);
        if !send_all(out, chunk).await {
            return None;
        }
        let _ = body.flow_control().release_capacity(bytes);
    }
}

/// Sends as the receiver gives room. False when the stream has ended.
async fn send_all(out: &mut SendStream<Frame>, mut chunk: Bytes) -> bool {
    while !chunk.is_empty() {
        out.reserve_capacity(chunk.len());
        // Room that is there already is not announced again.
        while out.capacity() == 0 {
            match poll_fn(|cx| out.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
        let room = out.capacity().min(chunk.len());
        if out
            .send_data(Frame::raw(chunk.split_to(room)), false)
            .is_err()
        {
            return false;
        }
    }
    true
}

fn refusal(code: u32, message: String) -> Failure {
    Failure {
        code,
        message,
        details: Bytes::new(),
    }
}

/// What the caller hears of a stream that upstream broke off.
fn broken(shared: &Shared, error: &h2::Error) -> Failure {
    let text = match &shared.upstream {
        Some(upstream) => upstream.broken(error),
        None => error.to_string(),
    };
    let code = match error.reason() {
        Some(Reason::CANCEL) => CANCELLED,
        Some(Reason::ENHANCE_YOUR_CALM) => RESOURCE_EXHAUSTED,
        Some(Reason::REFUSED_STREAM) => UNAVAILABLE,
        Some(_) if error.is_reset() => INTERNAL,
        _ => UNAVAILABLE,
    };
    refusal(code, text)
}
