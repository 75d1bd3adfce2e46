//! Hot unary calls.
use super::harness::*;
use bytes::Bytes;
use dfs_engine::wire::Limits;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use h2::Reason;
use std::io::Write;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_call_is_answered_with_headers_message_and_trailers() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answer = client.call(post("/t.S/Echo"), message(b"hello")).await;
    assert_eq!(answer.good(), "hello");
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(answer.headers.len(), 1);
    assert_eq!(answer.trailers.unwrap().len(), 1);
    assert_eq!(client.echo(b"").await, "");
    let counters = server.wire.counters();
    assert_eq!(
        (counters.connections, counters.calls, counters.streams),
        (1, 2, 0)
    );
    assert_eq!((counters.bytes_in, counters.bytes_out), (5, 5));
}

#[tokio::test]
async fn a_message_may_be_split_at_every_byte() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let body = message(b"split me");
    for at in 0..=body.len() {
        let (response, mut stream) = client.open(post("/t.S/Echo")).await;
        stream.send_data(body.slice(..at), false).unwrap();
        client.ping().await; // the server has the first part, and waits
        stream.send_data(body.slice(at..), true).unwrap();
        assert_eq!(read(response).await.good(), "split me", "at {at}");
    }
    let (response, mut stream) = client.open(post("/t.S/Echo")).await;
    for at in 0..body.len() {
        stream.send_data(body.slice(at..=at), false).unwrap();
        client.ping().await;
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read(response).await.good(), "split me");
}

#[tokio::test]
async fn calls_answered_by_another_thread_do_not_mix() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let mut pending = Vec::new();
    for i in 0..1_000 {
        let body = format!("call {i}");
        pending.push((
            body.clone(),
            client
                .begin(post("/t.S/Elsewhere"), message(body.as_bytes()))
                .await,
        ));
    }
    for (body, response) in pending {
        assert_eq!(read(response).await.good(), body);
    }
    assert_eq!(server.wire.counters().streams, 0);
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_messages_are_expanded() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let text = b"the same text, the same text, the same text".repeat(100);
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&text).unwrap();
    for (encoding, body) in [("gzip", gzip(&text)), ("deflate", zlib.finish().unwrap())] {
        let request = || post_with("/t.S/Echo", &[("grpc-encoding", encoding)]);
        assert_eq!(client.call(request(), flagged(1, &body)).await.good(), text);
        // Each message says for itself whether it is compressed.
        assert_eq!(
            client.call(request(), message(b"plain")).await.good(),
            "plain"
        );
        let broken = client.call(request(), flagged(1, b"no such thing")).await;
        assert_eq!((broken.code(), &broken.message()[..9]), (3, "malformed"));
    }
}

#[tokio::test]
async fn a_gzip_bomb_is_refused_at_the_limit() {
    let limits = Limits {
        message_bytes: 1 << 20,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    let request = || post_with("/t.S/Echo", &[("grpc-encoding", "gzip")]);
    let fits = client
        .call(request(), flagged(1, &gzip(&vec![0; 1 << 20])))
        .await;
    assert_eq!(fits.good().len(), 1 << 20);
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 20, "the bomb itself is within the limit");
    let answer = client.call(request(), flagged(1, &bomb)).await;
    assert_eq!(answer.code(), 8);
    assert_eq!(
        answer.message(),
        "too_large: a message of more than 1048576 bytes when expanded"
    );
}

#[tokio::test]
async fn an_unknown_encoding_is_named_with_the_known_ones() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let request = post_with("/t.S/Echo", &[("grpc-encoding", "snappy")]);
    let answer = client.call(request, flagged(1, b"x")).await;
    assert_eq!(answer.code(), 12);
    assert!(answer.message().contains("\"snappy\""));
    assert_eq!(answer.text("grpc-accept-encoding"), "identity,deflate,gzip");
    let none = client.call(post("/t.S/Echo"), flagged(1, b"x")).await;
    assert_eq!(none.code(), 3);
}

#[tokio::test]
async fn a_deadline_is_answered_and_the_late_answer_dropped() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let start = Instant::now();
    let request = post_with("/t.S/Hold", &[("grpc-timeout", "50m")]);
    let response = client.begin(request, message(b"x")).await;
    let call = server.held().await;
    assert!(call.deadline <= Instant::now() + Duration::from_millis(50));
    let answer = read(response).await;
    assert_eq!((answer.code(), answer.message()), (4, "deadline"));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(server.wire.counters().streams, 0);
    (call.answer)(good(b"late"));
    assert_eq!(client.echo(b"next").await, "next");
}

#[tokio::test]
async fn a_deadline_without_sense_or_time_is_refused_before_the_body() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    for (text, code) in [("soon", 3), ("", 3), ("123456789m", 3), ("0m", 4)] {
        let (response, _stream) = client
            .open(post_with("/t.S/Hold", &[("grpc-timeout", text)]))
            .await;
        assert_eq!(read(response).await.code(), code, "{text:?}");
    }
    assert_eq!(client.echo(b"next").await, "next");
}

#[tokio::test]
async fn a_short_deadline_does_not_wait_for_a_long_one() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let long = client.begin(post("/t.S/Hold"), message(b"long")).await;
    let request = post_with("/t.S/Hold", &[("grpc-timeout", "30m")]);
    let short = client.begin(request, message(b"short")).await;
    let held = server.held().await;
    assert_eq!(read(short).await.code(), 4);
    (held.answer)(good(b"in time"));
    assert_eq!(read(long).await.good(), "in time");
}

#[tokio::test]
async fn deadlines_have_a_default_and_a_maximum() {
    let limits = Limits {
        deadline_default: Duration::from_millis(40),
        deadline_max: Duration::from_millis(80),
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    for (timeout, expected) in [(None, 40), (Some("20000H"), 80)] {
        let headers: Vec<_> = timeout.iter().map(|t| ("grpc-timeout", *t)).collect();
        let start = Instant::now();
        let response = client
            .begin(post_with("/t.S/Hold", &headers), message(b"x"))
            .await;
        assert_eq!(read(response).await.code(), 4);
        assert!(start.elapsed() >= Duration::from_millis(expected));
    }
    let zero = post_with("/t.S/Echo", &[("grpc-timeout", "0m")]);
    assert_eq!(client.call(zero, message(b"x")).await.code(), 4);
}

#[tokio::test]
async fn a_body_that_does_not_come_meets_the_deadline() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let request = post_with("/t.S/Echo", &[("grpc-timeout", "50m")]);
    let (response, mut stream) = client.open(request).await;
    stream
        .send_data(message(b"half").slice(..7), false)
        .unwrap();
    assert_eq!(read(response).await.code(), 4);
    let reason = within(std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reason.unwrap(), Reason::NO_ERROR, "told to stop sending");
    assert_eq!(client.echo(b"next").await, "next");
}

#[tokio::test]
async fn a_cancelled_call_reaches_the_node_all_the_same() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let (response, mut stream) = client.open(post("/t.S/HoldWrite")).await;
    stream.send_data(message(b"a write"), true).unwrap();
    let call = server.held().await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    client.ping().await;
    assert_eq!(call.body, "a write");
    assert_eq!(server.wire.counters().streams, 1, "it is still under way");
    (call.answer)(good(b"done"));
    eventually("the call is over", || server.wire.counters().streams == 0).await;
    assert_eq!(client.echo(b"next").await, "next");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let _response = client
        .begin(post("/t.S/HoldWrite"), message(b"a write"))
        .await;
    let call = server.held().await;
    client.driver.abort();
    drop(client);
    eventually("the connection is gone", || {
        server.wire.counters().connections == 0
    })
    .await;
    assert_eq!(server.wire.counters().streams, 0);
    (call.answer)(good(b"done"));
    assert_eq!(
        Client::connect(server.address).await.echo(b"next").await,
        "next"
    );
}

#[tokio::test]
async fn a_large_answer_waits_for_a_tiny_window_without_holding_anybody() {
    let server = Server::start();
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(1_000)
        .initial_connection_window_size(65_535);
    let mut client = Client::with(server.address, &builder).await;
    let response = client.begin(post("/t.S/Hold"), message(b"x")).await;
    let call = server.held().await;
    let large = Bytes::from(
        (0..16 << 20)
            .map(|i: u32| (i / 7) as u8)
            .collect::<Vec<_>>(),
    );
    let (done_in, done) = channel();
    let copy = large.clone();
    std::thread::spawn(move || {
        (call.answer)(Ok(copy));
        done_in.send(())
    });
    done.recv_timeout(LONG)
        .expect("whoever answers is not held up by a slow reader");
    assert_eq!(client.echo(b"others").await, "others");
    assert!(read(response).await.good() == large);
}

#[tokio::test]
async fn a_refusal_carries_code_text_and_details_in_one_block() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let answer = client.call(post("/t.S/Fail"), message(b"x")).await;
    assert_eq!((answer.http, answer.code()), (200, 5));
    assert_eq!(
        answer.message(),
        "no such key: 50 %25 of %E2%80%9C%C3%BC%E2%80%9D%0A"
    );
    assert_eq!(answer.text("grpc-status-details-bin"), "/+++AQ");
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(answer.trailers.is_none() && answer.body.is_empty());
}

#[tokio::test]
async fn a_call_that_the_node_drops_is_answered() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    for (path, text) in [
        ("/t.S/Hold", "shutting_down"),
        ("/t.S/HoldWrite", "outcome_unknown"),
    ] {
        let response = client.begin(post(path), message(b"x")).await;
        drop(server.held().await);
        let answer = read(response).await;
        assert_eq!((answer.code(), answer.message()), (14, text));
    }
}

#[tokio::test]
async fn what_is_not_exactly_one_message_is_malformed() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let twice = [message(b"a"), message(b"b")].concat();
    for body in [
        &b""[..],
        &b"\0\0\0"[..],
        &b"\0\0\0\0\x09cut"[..],
        &twice,
        &flagged(7, b"x"),
    ] {
        let answer = client
            .call(post("/t.S/Echo"), Bytes::copy_from_slice(body))
            .await;
        assert_eq!(
            (answer.code(), &answer.message()[..11]),
            (3, "malformed: "),
            "{body:?}"
        );
    }
    let timeout = post_with("/t.S/Echo", &[("grpc-timeout", "soon")]);
    assert_eq!(client.call(timeout, message(b"x")).await.code(), 3);
    assert_eq!(client.echo(b"next").await, "next");
}

#[tokio::test]
async fn other_content_and_other_paths_are_told_what_is_here() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let web = post_with("/t.S/Echo", &[("content-type", "application/json")]);
    let answer = client.call(web, Bytes::from_static(b"{}")).await;
    assert_eq!(answer.http, 415);
    assert!(answer.body.starts_with(b"This port speaks gRPC"));
    for path in [
        "/t.S/Nothing",
        "/",
        "//t.S/Echo",
        "/t.S/%45cho",
        "/t.S/Echo/",
    ] {
        let answer = client.call(post(path), message(b"x")).await;
        assert_eq!(answer.code(), 12, "{path}");
        assert_eq!(
            answer.message(),
            format!("unimplemented: {path}").replace('%', "%25")
        );
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_its_head() {
    let limits = Limits {
        message_bytes: 1_000,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.echo(&[7; 1_000]).await, [7; 1_000][..]);
    let (response, mut stream) = client.open(post("/t.S/Echo")).await;
    stream
        .send_data(message(&[7; 1_001]).slice(..5), false)
        .unwrap();
    let answer = read(response).await;
    assert_eq!(answer.code(), 8);
    assert_eq!(
        answer.message(),
        "too_large: a message of 1001 bytes, at most 1000 are taken"
    );
    assert_eq!(client.echo(b"next").await, "next");
}
