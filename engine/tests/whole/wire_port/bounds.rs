//! Clients that take too much, say nothing, or send what they should not.
use super::harness::*;
use bytes::Bytes;
use dfs_engine::wire::{self, Limits};
use h2::Reason;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

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
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("grpcurl"),
        "{answer}"
    );
    let large = [
        &b"POST /dfs.FileService/Put HTTP/1.1\r\n\r\n"[..],
        &[b'x'; 40_000],
    ]
    .concat();
    let answer = raw(server.address, &large).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 400 "),
        "the answer is not overtaken by a reset"
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

/// Cancels calls as fast as the server takes them; how many it took before it cut the connection.
async fn resets(server: &Server, path: &str, most: u32) -> u32 {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let mut block = b"\x83\x86".to_vec(); // POST, http
    for (name, value) in [
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    let hello = [PREFACE, SETTINGS].concat();
    socket.write_all(&hello).await.unwrap();
    for number in 0..most {
        let stream = 2 * number + 1;
        let pair = [
            frame(1, 4, stream, &block),
            frame(0, 1, stream, &message(b"x")),
            frame(3, 0, stream, &[0, 0, 0, 8]),
        ];
        if within(socket.write_all(&pair.concat())).await.is_err() {
            return number;
        }
        tokio::task::yield_now().await;
    }
    most
}

#[tokio::test]
async fn a_flood_of_resets_is_cut() {
    let server = Server::start();
    let mut other = Client::connect(server.address).await;
    for path in ["/t.S/Hold", "/t.S/Echo", "/t.S/Nothing"] {
        let taken = resets(&server, path, 1_000_000).await;
        assert!(taken < 1_000_000, "{path}: cut only as far as sockets hold");
        assert_eq!(other.echo(b"alive").await, "alive");
        let most = u64::from(Limits::default().streams_per_connection);
        assert!(server.wire.counters().streams <= most);
    }
    eventually("they are gone", || server.wire.counters().connections == 1).await;
    assert_eq!(server.wire.counters().streams, 0, "held for nobody");
}

#[tokio::test]
async fn floods_of_frames_are_cut_and_hold_up_nobody_else() {
    let server = Server::start();
    let mut other = Client::connect(server.address).await;
    let empty_data = frame(0, 0, 1, b"");
    for flood in [
        frame(6, 0, 0, b"01234567"),
        frame(4, 0, 0, b""),
        frame(8, 0, 0, b"\0\0\0\0"),
        frame(2, 0, 1, b"\0\0\0\0\x10"),
        [frame(1, 4, 1, b"\x83\x86\x84"), empty_data.repeat(1_000)].concat(),
    ] {
        let kind = flood[3];
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let hello = [PREFACE, SETTINGS].concat();
        let attack = tokio::spawn(async move {
            socket.write_all(&hello).await.unwrap();
            // Its answers are never read.
            while socket.write_all(&flood).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        within(async {
            while !attack.is_finished() {
                assert_eq!(other.echo(b"alive").await, "alive");
            }
        })
        .await;
        eventually("it is cut", || server.wire.counters().connections == 1).await;
        assert!(kind < 10);
    }
}

#[tokio::test]
async fn a_client_may_cancel_all_its_calls_at_once() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    client.ping().await; // it knows how many streams it may open
    let mut open = Vec::new();
    for _ in 0..1_000 {
        open.push(client.open(post("/t.S/Echo")).await);
    }
    drop(open);
    client.ping().await;
    for _ in 0..1_000 {
        assert_eq!(client.echo(b"next").await, "next");
    }
}

#[tokio::test]
async fn a_client_whose_uploads_are_all_refused_keeps_its_connection() {
    let limits = Limits {
        message_bytes: 1_000,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut client = Client::connect(server.address).await;
    let mut open = Vec::new();
    let whole = message(&[0; 4_000]);
    for _ in 0..200 {
        let (response, mut stream) = client.open(post("/t.S/Echo")).await;
        stream.send_data(whole.slice(..2_000), false).unwrap();
        open.push((response, stream));
    }
    client.ping().await; // all of them are refused by now
    for (response, mut stream) in open {
        let _ = stream.send_data(whole.slice(2_000..), true);
        assert_eq!(read(response).await.code(), 8);
    }
    assert_eq!(client.echo(b"alive").await, "alive");
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
        "overloaded: 4 calls of this connection are under way, at most \
         STREAMS_PER_CONNECTION_MAX (dfs/limits.py)"
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
    assert_eq!(
        answer.message(),
        "overloaded: 2 connections are open, at most CONNECTIONS_MAX (dfs/limits.py)"
    );
    within(third.driver).await.unwrap().unwrap(); // and it is closed
    drop(first);
    eventually("there is room", || server.wire.counters().connections == 1).await;
    assert_eq!(Client::connect(server.address).await.echo(b"4").await, "4");
}

/// A call from another address of this machine.
async fn echo_from(host: &str, server: &Server) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{host}:0").parse().unwrap()).unwrap();
    let socket = socket.connect(server.address).await.unwrap();
    let mut client = Client::over(socket, &builder()).await.unwrap();
    client.call(post("/t.S/Echo"), message(b"x")).await
}

#[tokio::test]
async fn one_address_does_not_keep_others_out() {
    let limits = Limits {
        connections: 3,
        connections_per_address: 2,
        ..Limits::default()
    };
    let server = Server::with(limits, None);
    let mut first = Client::connect(server.address).await;
    let mut second = Client::connect(server.address).await;
    assert_eq!(first.echo(b"1").await, "1");
    assert_eq!(second.echo(b"2").await, "2");
    let refused = echo_from("127.0.0.1", &server).await;
    assert_eq!(
        refused.message(),
        "overloaded: 2 connections from your address are open, at most \
         CONNECTIONS_PER_ADDRESS_MAX (dfs/limits.py)"
    );
    assert_eq!(echo_from("127.0.0.2", &server).await.good(), "x");
    drop((first, second));
    eventually("they are gone", || server.wire.counters().connections == 0).await;
    assert_eq!(echo_from("127.0.0.1", &server).await.good(), "x");
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
