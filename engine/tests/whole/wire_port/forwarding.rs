//! Calls that are not hot: whole streams to the server behind the port.
use super::harness::*;
use super::upstream::Upstream;
use bytes::Bytes;
use dfs_engine::wire::Limits;
use h2::Reason;
use std::future::poll_fn;
use std::sync::atomic::Ordering::SeqCst;
use tempfile::TempDir;

struct Pair {
    server: Server,
    upstream: Upstream,
    client: Client,
    _dir: TempDir,
}

async fn pair() -> Pair {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::start(&dir.path().join("api.sock"));
    let server = Server::with(Limits::default(), Some(upstream.path.clone()));
    let client = Client::connect(server.address).await;
    Pair {
        server,
        upstream,
        client,
        _dir: dir,
    }
}

#[tokio::test]
async fn headers_data_and_trailers_pass_unchanged() {
    let mut pair = pair().await;
    let request = post_with(
        "/t.U/Headers",
        &[("grpc-timeout", "7S"), ("x-some-bin", "/+++")],
    );
    let answer = pair.client.call(request, message(b"x")).await;
    assert_eq!((answer.http, answer.code()), (200, 0));
    assert_eq!(answer.headers["x-initial"], "yes");
    assert_eq!(answer.text("x-trailing-bin"), "/+++");
    let seen = String::from_utf8(answer.body.to_vec()).unwrap();
    for part in [
        "POST",
        "http://localhost/t.U/Headers",
        "\"7S\"",
        "\"/+++\"",
        "\"trailers\"",
    ] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
}

#[tokio::test]
async fn an_answer_of_trailers_only_stays_one() {
    let mut pair = pair().await;
    let answer = pair
        .client
        .call(post("/t.U/TrailersOnly"), message(b"x"))
        .await;
    assert_eq!((answer.code(), answer.message()), (9, "no"));
    assert!(answer.trailers.is_none() && answer.body.is_empty());
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let mut pair = pair().await;
    let (response, mut stream) = pair.client.open(post("/t.U/Bidi")).await;
    let mut answers = within(response).await.unwrap().into_body();
    for i in 0..100_u32 {
        stream
            .send_data(Bytes::copy_from_slice(&i.to_be_bytes()), false)
            .unwrap();
        let echo = within(answers.data()).await.unwrap().unwrap();
        answers.flow_control().release_capacity(echo.len()).unwrap();
        assert_eq!(echo, i.to_be_bytes()[..]);
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(within(answers.data()).await.is_none());
    let trailers = within(answers.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    eventually("it is over", || pair.server.wire.counters().streams == 0).await;
}

#[tokio::test]
async fn an_upload_larger_than_all_windows_arrives_whole() {
    let mut pair = pair().await;
    let (response, mut stream) = pair.client.open(post("/t.U/Upload")).await;
    let messages = message(&vec![1; 1 << 20]).repeat(20);
    let bytes = messages.len();
    stream.send_data(Bytes::from(messages), true).unwrap();
    let answer = read(response).await;
    assert_eq!(answer.body, bytes.to_string());
    assert_eq!(pair.server.wire.counters().bytes_in, bytes as u64);
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_its_head() {
    let mut pair = pair().await;
    let most = Limits::default().message_bytes as u32;
    let head = [&[0][..], &(most + 1).to_be_bytes()].concat();
    let (response, mut stream) = pair.client.open(post("/t.U/Upload")).await;
    stream.send_data(Bytes::from(head), false).unwrap();
    let answer = read(response).await;
    assert_eq!(answer.code(), 8);
    assert!(
        answer.message().starts_with("too_large: "),
        "{}",
        answer.message()
    );
    eventually("it is over", || pair.server.wire.counters().streams == 0).await;
}

#[tokio::test]
async fn half_messages_are_bounded() {
    let mut pair = pair().await;
    let half = message(&vec![1; 16 << 20]).slice(..15 << 20);
    let mut open = Vec::new();
    let refused = loop {
        let (response, mut stream) = pair.client.open(post("/t.U/Upload")).await;
        let mut rest = half.clone();
        while !rest.is_empty()
            && let Some(bytes) = within(room(&mut stream, rest.len())).await
        {
            stream.send_data(rest.split_to(bytes), false).unwrap();
        }
        if !rest.is_empty() {
            break response;
        }
        open.push((response, stream));
        assert!(open.len() < 10, "no bound");
    };
    let answer = read(refused).await;
    assert_eq!(
        answer.message(),
        "overloaded: too many bytes of calls are under way"
    );
    assert_eq!(open.len(), 4, "64 MiB of one connection");
    drop(open);
    eventually("they are over", || pair.server.wire.counters().streams == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_the_server_down() {
    let mut pair = pair().await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(10_000);
    let mut client = Client::with(pair.server.address, &builder).await;
    let response = client.begin(post("/t.U/Endless"), message(b"x")).await;
    let mut body = within(response).await.unwrap().into_body();
    let seen = &pair.upstream.seen;
    eventually("it fills what there is", || seen.sent.load(SeqCst) > 60_000).await;
    client.ping().await;
    // The windows of both connections, and buffers: a quarter of a MiB would be far too much.
    assert!(
        seen.sent.load(SeqCst) < 256 << 10,
        "{}",
        seen.sent.load(SeqCst)
    );
    let before = seen.sent.load(SeqCst);
    let mut taken = 0;
    while taken < 1 << 20 {
        let chunk = within(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        taken += chunk.len();
    }
    assert!(
        seen.sent.load(SeqCst) > before,
        "it goes on with the reader"
    );
    // Many such streams do not hold up another one.
    let mut stuck = Vec::new();
    for _ in 0..300 {
        let response = client.begin(post("/t.U/Endless"), message(b"x")).await;
        stuck.push(within(response).await.unwrap());
    }
    let answer = pair.client.call(post("/t.U/Headers"), message(b"x")).await;
    assert_eq!(answer.code(), 0);
    assert_eq!(pair.client.echo(b"hot").await, "hot");
    assert!(
        seen.connections.load(SeqCst) >= 5,
        "64 streams a connection"
    );
    drop((stuck, body));
    eventually("all are cancelled", || seen.streams.load(SeqCst) == 0).await;
    assert_eq!(seen.resets.load(SeqCst), 301);
}

#[tokio::test]
async fn a_cancellation_reaches_upstream() {
    let mut pair = pair().await;
    let (response, mut stream) = pair.client.open(post("/t.U/Hang")).await;
    stream.send_data(message(b"x"), true).unwrap();
    let seen = pair.upstream.seen.clone();
    eventually("it has come", || seen.streams.load(SeqCst) == 1).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    eventually("it is cancelled", || seen.resets.load(SeqCst) == 1).await;
    // So does the end of the connection.
    let _response = pair.client.begin(post("/t.U/Hang"), message(b"x")).await;
    eventually("it has come", || seen.streams.load(SeqCst) == 1).await;
    pair.client.driver.abort();
    eventually("it is cancelled", || seen.resets.load(SeqCst) == 2).await;
    assert_eq!(pair.server.wire.counters().streams, 0);
}

#[tokio::test]
async fn a_reset_by_upstream_becomes_a_status() {
    let mut pair = pair().await;
    let (response, mut stream) = pair.client.open(post("/t.U/Reset")).await;
    let mut body = within(response).await.unwrap().into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "some");
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(within(body.data()).await.is_none());
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "13");
}

#[tokio::test]
async fn an_early_end_stops_the_caller_from_sending() {
    let mut pair = pair().await;
    let (response, mut stream) = pair.client.open(post("/t.U/Early")).await;
    stream.send_data(message(b"first"), false).unwrap();
    let answer = read(response).await;
    assert_eq!(answer.code(), 3);
    let reason = within(poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::NO_ERROR);
}

#[tokio::test]
async fn upstream_may_be_away_and_come_back() {
    let mut pair = pair().await;
    let path = pair.upstream.path.clone();
    assert_eq!(
        pair.client
            .call(post("/t.U/Headers"), message(b"x"))
            .await
            .code(),
        0
    );
    let response = pair.client.begin(post("/t.U/Endless"), message(b"x")).await;
    let started = within(response).await.unwrap();
    pair.upstream.kill().await;
    let broken = within(read_to_end(started)).await;
    assert_eq!(broken["grpc-status"], "14");
    let answer = pair.client.call(post("/t.U/Headers"), message(b"x")).await;
    assert_eq!(answer.code(), 14);
    assert!(
        answer.message().contains("does not answer"),
        "{}",
        answer.message()
    );
    assert!(
        answer.message().contains("api.sock"),
        "{}",
        answer.message()
    );
    assert_eq!(
        pair.client.echo(b"hot calls go on").await,
        "hot calls go on"
    );
    let again = Upstream::start(&path);
    assert_eq!(
        pair.client
            .call(post("/t.U/Headers"), message(b"x"))
            .await
            .code(),
        0
    );
    assert_eq!(again.seen.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn calls_wait_for_an_upstream_that_has_yet_to_start() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("api.sock");
    let server = Server::with(Limits::default(), Some(path.clone()));
    let mut client = Client::connect(server.address).await;
    let early = client.begin(post("/t.U/Headers"), message(b"x")).await;
    client.ping().await; // the call is there
    assert_eq!(client.echo(b"hot calls go on").await, "hot calls go on");
    let _upstream = Upstream::start(&path);
    assert_eq!(read(early).await.code(), 0);
}

async fn read_to_end(response: http::Response<h2::RecvStream>) -> http::HeaderMap {
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let bytes = chunk.unwrap().len();
        body.flow_control().release_capacity(bytes).unwrap();
    }
    body.trailers().await.unwrap().unwrap()
}

#[tokio::test]
async fn close_ends_forwarded_streams_on_both_sides() {
    let mut pair = pair().await;
    let response = pair.client.begin(post("/t.U/Hang"), message(b"x")).await;
    let seen = pair.upstream.seen.clone();
    eventually("it has come", || seen.streams.load(SeqCst) == 1).await;
    let wire = pair.server.wire.clone();
    tokio::task::spawn_blocking(move || wire.close())
        .await
        .unwrap();
    assert!(within(response).await.is_err());
    eventually("it is cancelled", || seen.resets.load(SeqCst) == 1).await;
    assert_eq!(pair.server.wire.counters().streams, 0);
}
