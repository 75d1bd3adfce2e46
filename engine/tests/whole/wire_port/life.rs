//! Draining and closing.
use super::harness::*;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

#[tokio::test]
async fn drain_lets_calls_under_way_end_and_takes_no_connections() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let mut idle = Client::connect(server.address).await;
    assert_eq!(idle.echo(b"x").await, "x");
    let response = client.begin(post("/t.S/Hold"), message(b"x")).await;
    let call = server.held().await;
    let drained = server.drain(LONG).await;
    within(idle.driver).await.unwrap().unwrap(); // GOAWAY without error, then closed
    let error = within(async {
        loop {
            if let Err(error) = client.requests.clone().ready().await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(error.is_go_away(), "{error}");
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "nobody listens"
    );
    assert!(!drained.is_finished(), "a call is under way");
    (call.answer)(good(b"in time"));
    assert_eq!(read(response).await.good(), "in time");
    drop(client);
    assert!(within(drained).await.unwrap());
    assert_eq!(server.wire.counters().connections, 0);
}

#[tokio::test]
async fn drain_ends_at_its_timeout() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let _response = client.begin(post("/t.S/Hold"), message(b"x")).await;
    let _call = server.held().await;
    let drained = server.drain(Duration::from_millis(50)).await;
    assert!(!within(drained).await.unwrap());
}

#[tokio::test]
async fn close_ends_everything_at_once() {
    let server = Server::start();
    let mut client = Client::connect(server.address).await;
    let response = client.begin(post("/t.S/HoldWrite"), message(b"x")).await;
    let call = server.held().await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let (half, mut stream) = client.open(post("/t.S/Echo")).await;
    stream
        .send_data(message(b"half").slice(..6), false)
        .unwrap();
    client.ping().await;
    let wire = server.wire.clone();
    let start = Instant::now();
    within(tokio::task::spawn_blocking(move || wire.close()))
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(within(response).await.is_err() && within(half).await.is_err());
    (call.answer)(good(b"to nobody"));
    let counters = server.wire.counters();
    assert_eq!((counters.connections, counters.streams), (0, 0));
    drop(silent);
    server.wire.close();
}

#[tokio::test]
async fn a_port_can_be_started_and_closed_many_times() {
    for round in 0..50_u32 {
        let server = Server::start();
        let mut client = Client::connect(server.address).await;
        assert_eq!(
            client.echo(&round.to_be_bytes()).await,
            round.to_be_bytes()[..]
        );
    }
}
