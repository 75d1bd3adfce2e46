//! Clients that take too much, say nothing, or send what they should not.
use crate::harness::*;
use bytes::Bytes;
use dfs_engine::wire::{self, Limits};
use h2::Reason;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Sends bytes and reads until the server closes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    within(async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await; // a reset is an end as well
        answer
    })
    .await
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn hasty() -> Limits {
    Limits {
        handshake: Duration::from_millis(150),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_connection_without_a_preface_in_time_is_closed() {
    let server = Server::with(hasty(), None);
    for beginning in [&b""[..], &PREFACE[..1], &PREFACE[..20]] {
        let start = Instant::now();
        assert!(
            raw(server.address, beginning).await.len() < 100,
            "no answer, perhaps SETTINGS"
        );
        assert!(
            start.elapsed() >= Duration::from_millis(150),
            "{beginning:?}"
        );
    }
    eventually("all are gone", || server.wire.counters().connections == 0).await;
}

#[tokio::test]
async fn other_protocols_are_told_or_closed_at_once() {
    let server = Server::start();
    let answer = raw(server.address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 505 ") && answer.contains("grpcurl"),
        "{answer}"
    );
    assert!(
        raw(server.address, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
            .await
            .is_empty()
    );
    assert_eq!(
        Client::connect(server.address).await.echo(b"alive").await,
        "alive"
    );
}

#[tokio::test]
async fn malformed_frames_end_their_connection_only() {
    let server = Server::start();
    let mut other = Client::connect(server.address).await;
    let bad = [
        frame(0, 0, 0, b"data on stream 0"),
        frame(0, 0, 1, b"data on an idle stream"),
        frame(1, 4, 2, b"\x82"),                     // even stream
        frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), // no HPACK
        frame(1, 0x0c, 1, b"\xff"),                  // more padding than payload
        frame(3, 0, 1, b"\0\0\0\x08"),               // reset of an idle stream
        frame(4, 0, 0, b"odd"),
        frame(5, 4, 1, b"\0\0\0\x02\x82"), // push promise by a client
        frame(8, 0, 0, b"\0\0\0\0"),       // window update of 0
        frame(9, 4, 1, b"\x82"),           // continuation of nothing
        b"\xff\xff\xff\0\0\0\0\0\x01".to_vec(), // larger than any frame
    ];
    for frame in &bad {
        let sent = [PREFACE, SETTINGS, frame].concat();
        let answer = raw(server.address, &sent).await;
        let goaway = answer
            .windows(5)
            .any(|w| w == [8, 7, 0, 0, 0] || w[1..] == [7, 0, 0, 0]);
        assert!(goaway, "no GOAWAY for {frame:?}: {answer:?}");
        assert_eq!(other.echo(b"alive").await, "alive");
    }
    eventually("they are gone", || server.wire.counters().connections == 1).await;
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let server = Server::with(hasty(), None);
    let mut other = Client::connect(server.address).await;
    let mut seed = 1_u64;
    for round in 0..200 {
        let mut bytes = if round % 2 == 0 {
            [PREFACE, SETTINGS].concat()
        } else {
            Vec::new()
        };
        for _ in 0..300 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push((seed >> 56) as u8);
        }
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(&bytes).await;
    }
    assert_eq!(other.echo(b"alive").await, "alive");
    eventually("they are gone", || server.wire.counters().connections == 1).await;
}

#[tokio::test]
async fn metadata_above_the_limit_is_refused_and_far_above_it_closes() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let large = |bytes: usize| post_with("/t.S/Echo", &[("x-large", &"a".repeat(bytes))]);
    assert_eq!(client.call(large(7_000), message(b"x")).await.good(), "x");
    let answer = client.call(large(9_000), message(b"x")).await;
    assert_eq!(answer.code(), 8);
    assert!(
        answer.message().starts_with("metadata_too_large: "),
        "{}",
        answer.message()
    );
    let response = client.begin(large(40_000), message(b"x")).await;
    match within(response).await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(error.is_go_away() || error.is_reset(), "{error}"),
    }
    assert_eq!(
        Client::connect(server.address).await.echo(b"alive").await,
        "alive"
    );
}

#[tokio::test]
async fn a_flood_of_continuations_is_cut() {
    let server = Server::start();
    let mut flood = [PREFACE, SETTINGS, &frame(1, 0, 1, b"\x83")].concat();
    // Literal headers, never ended: 16 MiB of them.
    let mut block = b"\0\x01a\x7f\xe1\x7e".to_vec(); // a value of 16,352 bytes
    block.resize(6 + 16_352, b'x');
    block.truncate(16_384);
    for _ in 0..1_000 {
        flood.extend(frame(9, 0, 1, &block));
    }
    let answer = raw(server.address, &flood).await;
    assert!(answer.len() < 1_000);
    eventually("it is gone", || server.wire.counters().connections == 0).await;
    assert_eq!(
        Client::connect(server.address).await.echo(b"alive").await,
        "alive"
    );
}

#[tokio::test]
async fn a_flood_of_resets_is_cut_or_bounded() {
    let server = Server::start();
    let mut other = Client::connect(server.address).await;
    let attacker = Client::connect(server.address).await;
    for _ in 0..20_000 {
        let Ok(mut ready) = attacker.requests.clone().ready().await else {
            break;
        };
        let Ok((_, mut stream)) = ready.send_request(post("/t.S/Hold"), false) else {
            break;
        };
        let _ = stream.send_data(message(b"x"), true);
        stream.send_reset(Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    assert_eq!(other.echo(b"alive").await, "alive");
    let most = u64::from(Limits::default().streams_per_connection);
    assert!(server.wire.counters().streams <= most);
}

#[tokio::test]
async fn a_flood_of_pings_or_settings_holds_up_nobody_else() {
    let server = Server::start();
    let mut other = Client::connect(server.address).await;
    for frame in [frame(6, 0, 0, b"01234567"), frame(4, 0, 0, b"")] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let flood = frame.repeat(200_000);
        let attack = tokio::spawn(async move {
            socket
                .write_all(&[PREFACE, SETTINGS].concat())
                .await
                .unwrap();
            let _ = socket.write_all(&flood).await; // its answers are never read
            socket
        });
        for _ in 0..100 {
            assert_eq!(other.echo(b"alive").await, "alive");
        }
        attack.abort();
    }
}

#[tokio::test]
async fn cancelled_calls_count_until_they_are_answered() {
    let limits = Limits {
        streams_per_connection: 4,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let (_, mut stream) = client.open(post("/t.S/HoldWrite")).await;
        stream.send_data(message(b"x"), true).unwrap();
        held.push(server.held().await);
        stream.send_reset(Reason::CANCEL);
        client.ping().await;
    }
    let answer = client.call(post("/t.S/Echo"), message(b"x")).await;
    assert_eq!(answer.code(), 8);
    assert_eq!(
        answer.message(),
        "overloaded: 4 calls of this connection are under way"
    );
    for call in held {
        (call.answer)(good(b"done"));
    }
    client.ping().await;
    assert_eq!(client.echo(b"next").await, "next");
}

#[tokio::test]
async fn connections_beyond_the_limit_hear_so() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut first = Client::connect(server.address).await;
    let mut second = Client::connect(server.address).await;
    assert_eq!(first.echo(b"1").await, "1");
    assert_eq!(second.echo(b"2").await, "2");
    let mut third = Client::connect(server.address).await;
    let answer = third.call(post("/t.S/Echo"), message(b"3")).await;
    assert_eq!(answer.code(), 8);
    assert_eq!(answer.message(), "overloaded: 2 connections are open");
    within(third.driver).await.unwrap().unwrap(); // and it is closed
    drop(first);
    eventually("there is room", || server.wire.counters().connections == 1).await;
    assert_eq!(Client::connect(server.address).await.echo(b"4").await, "4");
}

#[tokio::test]
async fn bodies_under_way_are_bounded() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let whole = message(&vec![0; 15 << 20]);
    let unfinished = whole.slice(..15 << 20);
    let mut open = Vec::new();
    let mut refused = Vec::new();
    for _ in 0..5 {
        let (response, mut stream) = client.open(post("/t.S/Echo")).await;
        let sent = async {
            let mut rest = unfinished.clone();
            while !rest.is_empty() {
                let Some(bytes) = room(&mut stream, rest.len()).await else {
                    return false;
                };
                stream.send_data(rest.split_to(bytes), false).unwrap();
            }
            true
        };
        match within(sent).await {
            true => open.push((response, stream)),
            false => refused.push(response),
        }
    }
    assert_eq!((open.len(), refused.len()), (4, 1));
    let answer = read(refused.pop().unwrap()).await;
    assert_eq!(
        answer.message(),
        "overloaded: too many bytes of calls are under way"
    );
    assert_eq!(client.echo(b"small ones pass").await, "small ones pass");
    let (response, mut stream) = open.pop().unwrap();
    stream.send_data(whole.slice(15 << 20..), true).unwrap();
    assert_eq!(read(response).await.good().len(), 15 << 20);
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let server = Server::start();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let mut client = Client::with(server.address, &builder).await;
    let mut responses = Vec::new();
    for _ in 0..5 {
        responses.push(client.begin(post("/t.S/Hold"), message(b"x")).await);
        (server.held().await.answer)(Ok(Bytes::from(vec![0; 15 << 20])));
    }
    let last = read(responses.pop().unwrap()).await;
    assert_eq!(last.code(), 8);
    assert!(
        last.message()
            .starts_with("overloaded: the answers that wait"),
        "{last:?}"
    );
    drop(responses); // cancelled: the memory is free again
    client.ping().await;
    let response = client.begin(post("/t.S/Hold"), message(b"x")).await;
    (server.held().await.answer)(Ok(Bytes::from(vec![0; 15 << 20])));
    assert_eq!(
        within(response).await.unwrap().headers().get("grpc-status"),
        None
    );
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let server = Server::start();
    let error = wire::bind(&server.address.to_string()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(
        error.to_string().contains(&server.address.to_string()),
        "{error}"
    );
}
