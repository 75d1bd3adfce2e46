//! What takes long, or needs a caller from elsewhere: over pipes, with a clock that jumps ahead.
use super::limits::{
    IDLE, OUTBOUND_BYTES_OF_ONE, OUTBOUND_CROWDED, PING_AFTER, PING_WAIT, STALL, TICK,
};
use super::peer::Peer;
use super::shared::Shared;
use super::{Config, FAILURES, Limits, accept, bind, connection};
use crate::call::{Call, Failure, Handler, Route};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const PIPE_BYTES: usize = 64 << 10;
const ECHO: Route = Route {
    method: 1,
    reads: true,
    streams: false,
};
const STREAM: Route = Route {
    method: 2,
    reads: false,
    streams: true,
};

/// Answers with the request; where the answer is a stream it goes on.
#[derive(Default)]
struct Echo {
    open: Mutex<Vec<Call>>,
}

impl Handler for Echo {
    fn call(&self, call: Call) {
        let Some(outlet) = call.outlet.clone() else {
            return (call.answer)(Ok(call.body));
        };
        let mut bells = Vec::new();
        outlet.send(&outlet.message(call.body.clone(), 1), &mut bells);
        bells.iter().for_each(|bell| bell.ring());
        self.open.lock().push(call);
    }
}

fn shared(insecure: bool, limits: Limits) -> Arc<Shared> {
    let row = |kind: &&str| {
        let failure = Failure {
            code: 7,
            message: kind.to_string(),
            details: Bytes::new(),
        };
        (kind.to_string(), failure)
    };
    let config = Config {
        listen: bind("127.0.0.1:0").unwrap(),
        local: None,
        routes: [("/t.S/Echo", ECHO), ("/t.S/Stream", STREAM)]
            .map(|(path, route)| (path.to_string(), route))
            .into(),
        failures: FAILURES.iter().map(row).collect(),
        upstream: None,
        limits,
        insecure,
        tls: None,
    };
    Arc::new(Shared::new(config, Arc::new(Echo::default())))
}

/// A served connection: the client's end, its peer, and the task that serves it.
fn pipe(refusal: Option<Failure>) -> (DuplexStream, Arc<Peer>, JoinHandle<()>) {
    let shared = shared(false, Limits::default());
    tokio::spawn(shared.ticks.clone().run());
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (_, peer) = shared.register().unwrap();
    let by = Instant::now() + shared.limits.handshake;
    let task = tokio::spawn(connection::serve(shared, peer.clone(), far, refusal, by));
    (near, peer, task)
}

async fn client(near: DuplexStream, builder: &Builder) -> SendRequest<Bytes> {
    let (requests, connection) = builder.handshake(near).await.unwrap();
    tokio::spawn(connection);
    requests
}

async fn call(requests: &SendRequest<Bytes>, body: Bytes) -> http::Response<h2::RecvStream> {
    call_of(requests, "Echo", body).await
}

async fn call_of(
    requests: &SendRequest<Bytes>,
    method: &str,
    body: Bytes,
) -> http::Response<h2::RecvStream> {
    let mut requests = requests.clone().ready().await.unwrap();
    let request = Request::post(format!("http://localhost/t.S/{method}"))
        .header("content-type", "application/grpc");
    let (response, mut stream) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    stream.send_data(body, true).unwrap();
    response.await.unwrap()
}

fn message(bytes: usize) -> Bytes {
    let mut framed = vec![0];
    framed.extend((bytes as u32).to_be_bytes());
    framed.resize(5 + bytes, 0);
    framed.into()
}

#[test]
fn only_loopback_is_served_unless_insecure() {
    let (protected, open) = (
        shared(false, Limits::default()),
        shared(true, Limits::default()),
    );
    let from = |text: &str| SocketAddr::new(text.parse::<IpAddr>().unwrap(), 1);
    for near in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert!(accept::enter(&protected, from(near)).is_ok(), "{near}");
    }
    for far in [
        "10.0.0.1",
        "192.0.2.7",
        "::ffff:10.0.0.1",
        "fe80::1",
        "0.0.0.0",
    ] {
        let refusal = accept::enter(&protected, from(far)).err().expect(far);
        assert_eq!(
            refusal.message,
            format!("not_loopback: you call from {far}")
        );
        assert!(accept::enter(&open, from(far)).is_ok(), "{far}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_hears_why_once() {
    let refusal = Failure {
        code: 7,
        message: "not from there".into(),
        details: Bytes::new(),
    };
    let (near, _peer, task) = pipe(Some(refusal));
    let requests = client(near, &Builder::new()).await;
    let answer = call(&requests, message(1)).await;
    assert_eq!(answer.headers()["grpc-status"], "7");
    assert_eq!(answer.headers()["grpc-message"], "not from there");
    drop(answer);
    task.await.unwrap();
    assert!(requests.ready().await.is_err(), "the connection is closed");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_closed() {
    let start = Instant::now();
    let (mut near, _peer, task) = pipe(None);
    near.write_all(PREFACE).await.unwrap();
    let mut heard = Vec::new();
    near.read_to_end(&mut heard).await.unwrap();
    task.await.unwrap();
    let took = start.elapsed();
    assert!(
        took >= PING_AFTER + PING_WAIT && took <= PING_AFTER + PING_WAIT + 2 * TICK,
        "{took:?}"
    );
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0];
    assert!(
        heard.windows(ping.len()).any(|bytes| bytes == ping),
        "it was pinged"
    );
    assert!(heard.ends_with(&ENHANCE_YOUR_CALM), "{heard:?}");
}

/// What comes back on a connection that says `bytes` and then nothing, and how long that takes.
async fn answer_to(bytes: &[u8]) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    let (near, _peer, task) = pipe(None);
    let (mut reading, mut writing) = tokio::io::split(near);
    let mut heard = Vec::new();
    let said = async {
        let _ = writing.write_all(PREFACE).await; // it may be cut off before the end
        let _ = writing.write_all(bytes).await;
    };
    let (_, read) = tokio::join!(said, reading.read_to_end(&mut heard));
    read.unwrap();
    task.await.unwrap();
    (heard, start.elapsed())
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

#[tokio::test(start_paused = true)]
async fn floods_end_the_connection_and_say_so() {
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let window_update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let priority = [0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 16];
    let unknown = [0, 0, 0, 0xfe, 0, 0, 0, 0, 0];
    for frame in [
        &empty_settings[..],
        &ping,
        &window_update,
        &priority,
        &unknown,
    ] {
        let (heard, took) = answer_to(&frame.repeat(50_000)).await;
        assert!(heard.ends_with(&ENHANCE_YOUR_CALM), "kind {}", frame[3]);
        assert!(took < TICK, "kind {}: {took:?}", frame[3]);
    }
}

#[tokio::test(start_paused = true)]
async fn headers_without_end_end_the_connection() {
    let begun = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let (heard, took) = answer_to(&begun).await;
    assert!(heard.ends_with(&ENHANCE_YOUR_CALM), "{heard:?}");
    assert!(took >= TICK && took <= 2 * TICK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_to_go_and_a_used_one_is_not() {
    let (near, _peer, task) = pipe(None);
    let requests = client(near, &Builder::new()).await;
    for _ in 0..3 {
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await; // pinged, and it answers
        assert_eq!(call(&requests, message(1)).await.status(), 200);
    }
    let last = Instant::now();
    task.await.unwrap();
    assert!(last.elapsed() >= IDLE && last.elapsed() <= IDLE + 2 * TICK);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_answers_is_closed() {
    let (near, peer, task) = pipe(None);
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let requests = client(near, &builder).await;
    let unread = call(&requests, message(1_000)).await;
    let start = Instant::now();
    assert_eq!(peer.flow().0, 1_005, "bytes that wait");
    task.await.unwrap();
    assert!(start.elapsed() >= STALL && start.elapsed() <= STALL + 2 * TICK);
    drop(unread);
    assert_eq!(peer.flow().0, 0, "nothing is kept");
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_a_stream_is_closed_only_where_much_waits() {
    let (near, peer, task) = pipe(None);
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let requests = client(near, &builder).await;
    let unread = call_of(&requests, "Stream", message(100_000)).await;
    tokio::time::sleep(3 * STALL).await; // pinged, and it answers
    assert!(!task.is_finished());
    let part = (OUTBOUND_BYTES_OF_ONE / OUTBOUND_CROWDED) as usize;
    assert!(!peer.crowded());
    let more = call_of(&requests, "Stream", message(part)).await;
    assert!(peer.crowded());
    let start = Instant::now();
    task.await.unwrap();
    assert!(start.elapsed() >= STALL && start.elapsed() <= STALL + 2 * TICK);
    drop((unread, more));
}
