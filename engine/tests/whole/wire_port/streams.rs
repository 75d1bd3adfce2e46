//! Calls that are answered by a stream of messages.
use super::harness::*;
use bytes::Bytes;
use dfs_engine::call::{Audience, Bell, Call, Outlet, Sent};
use dfs_engine::wire::Limits;
use h2::client;
use http::HeaderMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KIB: usize = 1 << 10;

/// Notes the news, as the node does.
#[derive(Default)]
struct Heard(Mutex<Vec<(u64, bool)>>);

impl Heard {
    fn all(&self) -> Vec<(u64, bool)> {
        self.0.lock().unwrap().clone()
    }
}

impl Audience for Heard {
    fn news(&self, id: u64, room: bool) {
        self.0.lock().unwrap().push((id, room));
    }
}

/// A stream under way at the node.
struct Open {
    call: Call,
    heard: Arc<Heard>,
}

impl Open {
    async fn new(server: &Server) -> Open {
        let call = server.held().await;
        let heard = Arc::new(Heard::default());
        assert!(call.outlet.as_ref().unwrap().attend(7, heard.clone()));
        Open { call, heard }
    }

    fn outlet(&self) -> &Arc<dyn Outlet> {
        self.call.outlet.as_ref().unwrap()
    }

    fn send(&self, body: &[u8]) -> Sent {
        let mut bells: Vec<Arc<dyn Bell>> = Vec::new();
        let message = self.outlet().message(Bytes::copy_from_slice(body), 1);
        let sent = self.outlet().send(&message, &mut bells);
        bells.iter().for_each(|bell| bell.ring());
        sent
    }
}

async fn begin(client: &mut Client) -> client::ResponseFuture {
    client.begin(post("/t.S/Stream"), message(b"ask")).await
}

fn framed(bodies: &[&[u8]]) -> Vec<u8> {
    bodies.iter().flat_map(|body| message(body)).collect()
}

fn status(trailers: &HeaderMap) -> &str {
    trailers["grpc-status"].to_str().unwrap()
}

#[tokio::test]
async fn messages_come_in_order_behind_headers_and_before_trailers() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answer = begin(&mut client).await;
    let open = Open::new(&server).await;
    assert_eq!(open.call.body, "ask");
    let bodies: Vec<String> = (0..100).map(|n| format!("message {n}")).collect();
    for body in &bodies {
        assert_eq!(open.send(body.as_bytes()), Sent::Taken);
    }
    open.outlet().finish();
    assert_eq!(open.send(b"late"), Sent::Gone);
    let answer = read(answer).await;
    let bodies: Vec<&[u8]> = bodies.iter().map(|body| body.as_bytes()).collect();
    assert_eq!(answer.body, framed(&bodies));
    assert_eq!((answer.http, answer.code()), (200, 0));
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(answer.trailers.is_some());
    assert_eq!(open.heard.all(), [], "the node has ended it");
}

#[tokio::test]
async fn a_failure_comes_alone_or_behind_what_was_sent() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    for messages in 0..3 {
        let answer = begin(&mut client).await;
        let open = Open::new(&server).await;
        let bodies = vec![&b"one"[..]; messages];
        for body in &bodies {
            open.send(body);
        }
        (open.call.answer)(Err(failure()));
        let answer = read(answer).await;
        assert_eq!(answer.body, framed(&bodies));
        assert_eq!(answer.code(), 5);
        assert_eq!(answer.trailers.is_none(), messages == 0, "trailers only");
        assert_eq!(answer.text("grpc-status-details-bin"), "/+++AQ");
    }
}

#[tokio::test]
async fn one_answer_and_nothing_at_all_are_answers_too() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answer = begin(&mut client).await;
    (server.held().await.answer)(good(b"all"));
    assert_eq!(read(answer).await.good(), "all");
    let answer = begin(&mut client).await;
    Open::new(&server).await.outlet().finish();
    let answer = read(answer).await;
    assert_eq!((answer.body.len(), answer.code()), (0, 0));
    let answer = begin(&mut client).await;
    drop(server.held().await);
    let answer = read(answer).await;
    assert_eq!(answer.code(), 14);
    assert_eq!(answer.message(), "shutting_down");
}

#[tokio::test]
async fn who_sends_is_told_to_wait_and_when_there_is_room() {
    let limits = Limits {
        stream_bytes: 100 * KIB as u64,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut builder = client::Builder::new();
    builder.initial_window_size(10 * KIB as u32);
    let mut client = Client::with(server.address, &builder).await;
    let answer = begin(&mut client).await;
    let open = Open::new(&server).await;
    let part = vec![7; 20 * KIB];
    let mut sent = 0;
    while open.send(&part) == Sent::Taken {
        sent += 1;
    }
    assert!((4..=5).contains(&sent), "{sent} parts and one more");
    client.ping().await;
    assert_eq!(open.heard.all(), [], "nobody reads");
    assert!(
        matches!(open.send(&part), Sent::Full(_)),
        "accepted all the same"
    );
    open.outlet().finish();
    // After its end nobody wants to hear anything.
    assert_eq!(read(answer).await.body.len(), (sent + 2) * (5 + part.len()));
    assert_eq!(open.heard.all(), []);

    let answer = begin(&mut client).await;
    let open = Open::new(&server).await;
    while open.send(&part) == Sent::Taken {}
    let mut body = within(answer).await.unwrap().into_body();
    while open.heard.all().is_empty() {
        let chunk = within(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    assert_eq!(open.heard.all(), [(7, true)], "once");
    assert_eq!(open.send(b"more"), Sent::Taken);
}

#[tokio::test]
async fn the_node_hears_once_that_a_caller_has_gone() {
    let server = Server::start();
    for messages in [0, 3] {
        for lost in [false, true] {
            let mut client = Client::connect(server.address).await;
            let answer = begin(&mut client).await;
            let open = Open::new(&server).await;
            for _ in 0..messages {
                open.send(b"x");
            }
            client.ping().await;
            drop(answer); // resets the stream
            if lost {
                client.driver.abort();
            }
            let gone = || open.heard.all() == [(7, false)];
            eventually("it is told", gone).await;
            assert_eq!(open.send(b"x"), Sent::Gone);
            open.outlet().finish();
            assert_eq!(open.heard.all(), [(7, false)]);
            let quiet = || server.wire.counters().streams == 0;
            eventually("the stream is gone", quiet).await;
        }
    }
}

#[tokio::test]
async fn a_caller_that_has_gone_before_is_not_attended() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answer = begin(&mut client).await;
    let call = server.held().await;
    drop(answer);
    let outlet = call.outlet.clone().unwrap();
    eventually("gone", || server.wire.counters().streams == 0).await;
    assert!(!outlet.attend(1, Arc::new(Heard::default())));
}

#[tokio::test]
async fn a_stream_has_the_deadline_of_its_caller_and_no_other() {
    let limits = Limits {
        deadline_default: Duration::from_millis(50),
        deadline_max: Duration::from_millis(60),
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    let patient = begin(&mut client).await;
    let endless = Open::new(&server).await;
    for messages in [0, 1] {
        let request = post_with("/t.S/Stream", &[("grpc-timeout", "200m")]);
        let answer = client.begin(request, message(b"")).await;
        let open = Open::new(&server).await;
        for _ in 0..messages {
            open.send(b"x");
        }
        let answer = read(answer).await;
        assert_eq!((answer.code(), answer.message()), (4, "deadline"));
        assert_eq!(answer.body.len(), messages * 6);
        assert_eq!(open.heard.all(), [(7, false)]);
    }
    assert_eq!(endless.heard.all(), []);
    assert_eq!(endless.send(b"still here"), Sent::Taken);
    endless.outlet().finish();
    assert_eq!(read(patient).await.good(), "still here");
    // But the request itself has to come.
    let (answer, _body) = client.open(post("/t.S/Stream")).await;
    assert_eq!(read(answer).await.code(), 4);
}

#[tokio::test]
async fn a_thousand_streams_of_one_connection_get_one_message() {
    let limits = Limits {
        streams_per_connection: 1_000,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    let mut answers = Vec::new();
    let mut open = Vec::new();
    for _ in 0..1_000 {
        answers.push(begin(&mut client).await);
        open.push(Open::new(&server).await);
    }
    let mut bells: Vec<Arc<dyn Bell>> = Vec::new();
    eventually("it sleeps, so that it has to be woken", || {
        let shared = Bytes::from_static(b"to all");
        let shared = open[0].outlet().message(shared, open.len());
        bells.clear();
        for stream in &open {
            let sent = stream.outlet().send(&shared, &mut bells);
            assert_eq!(sent, Sent::Taken);
        }
        bells.iter().for_each(|bell| bell.ring());
        bells.len() == 1
    })
    .await;
    for stream in &open {
        stream.outlet().finish();
    }
    for answer in answers {
        let answer = read(answer).await;
        assert_eq!(answer.code(), 0);
        assert!(answer.body.starts_with(&message(b"to all")));
    }
    assert_eq!(server.wire.counters().streams, 0);
}

#[tokio::test]
async fn where_much_waits_streams_get_no_credit_and_then_end() {
    let server = Server::start();
    let mut builder = client::Builder::new();
    builder.initial_window_size(0);
    let mut client = Client::with(server.address, &builder).await;
    let part = vec![0; 900 * KIB];
    let mut answers = Vec::new();
    let mut streams = Vec::new();
    let mut first_full = None;
    for n in 0..80 {
        answers.push(begin(&mut client).await);
        let open = Open::new(&server).await;
        match open.send(&part) {
            Sent::Taken => assert_eq!(first_full, None, "{n}"),
            Sent::Full(_) => first_full = first_full.or(Some(n)),
            Sent::Gone => break,
        }
        streams.push(open);
    }
    // A quarter of 64 MiB, and all of it.
    assert_eq!(first_full, Some(18));
    assert_eq!(streams.len(), 72);
    let answer = read(answers.pop().unwrap()).await;
    assert_eq!(
        (answer.code(), answer.text("grpc-message")),
        (
            8,
            "overloaded: the answers that wait for slow readers take too much memory"
        )
    );
}

#[tokio::test]
async fn drain_lets_streams_go_on_and_close_ends_them() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answers = [begin(&mut client).await, begin(&mut client).await];
    let open = [Open::new(&server).await, Open::new(&server).await];
    let drained = server.drain(LONG).await;
    let [first, second] = answers;
    eventually("no new ones", || !drained.is_finished()).await;
    assert_eq!(open[0].send(b"while draining"), Sent::Taken);
    open[0].outlet().finish();
    assert_eq!(read(first).await.good(), "while draining");
    assert!(!drained.is_finished(), "the other is open");
    open[1].outlet().finish();
    assert_eq!(read(second).await.code(), 0);
    assert!(within(drained).await.unwrap());

    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answer = begin(&mut client).await;
    let open = Open::new(&server).await;
    open.send(b"x");
    let wire = server.wire.clone();
    tokio::task::spawn_blocking(move || wire.close())
        .await
        .unwrap();
    assert_eq!(open.heard.all(), [(7, false)]);
    assert_eq!(open.send(b"x"), Sent::Gone);
    drop(answer);
}

#[tokio::test]
async fn messages_of_any_size_arrive_through_any_window() {
    let server = Server::start();
    let mut builder = client::Builder::new();
    builder.initial_window_size(1_000);
    let mut client = Client::with(server.address, &builder).await;
    let answer = begin(&mut client).await;
    let open = Open::new(&server).await;
    let sizes = [0, 1, 250, 251, 252, 1_000, 1_019, 70_000, 300_000];
    let bodies: Vec<Vec<u8>> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
    for body in &bodies {
        open.send(body);
    }
    open.outlet().finish();
    let bodies: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
    let answer = read(answer).await;
    assert!(answer.body == framed(&bodies));
    assert_eq!(status(answer.trailers.as_ref().unwrap()), "0");
}
