//! A port with a fake node behind it, and a client that sees every header, frame and reset.
use bytes::{Bytes, BytesMut};
use dfs_engine::call::{Call, Failure, Handler, Reply, Route};
use dfs_engine::wire::{self, Config, FAILURES, Limits, Wire};
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Longer than anything here takes; a test that gets there has failed.
pub const LONG: Duration = Duration::from_secs(20);

/// What the fake node does with a call is in its method.
pub const ECHO: u32 = 1;
/// Like ECHO, answered by a thread of its own.
pub const ECHO_ELSEWHERE: u32 = 2;
/// Kept for the test.
pub const HOLD: u32 = 3;
pub const HOLD_WRITE: u32 = 4;
pub const FAIL: u32 = 5;
/// Kept for the test, which answers by a stream.
pub const STREAM: u32 = 6;

pub struct Node {
    held: Mutex<Sender<Call>>,
    elsewhere: Mutex<Sender<Call>>,
}

impl Handler for Node {
    fn call(&self, call: Call) {
        match call.method {
            ECHO => (call.answer)(Ok(call.body)),
            ECHO_ELSEWHERE => self.elsewhere.lock().unwrap().send(call).unwrap(),
            FAIL => (call.answer)(Err(failure())),
            _ => drop(self.held.lock().unwrap().send(call)),
        }
    }
}

pub fn failure() -> Failure {
    Failure {
        code: 5,
        message: "no such key: 50 % of “ü”\n".into(),
        details: Bytes::from_static(&[0xff, 0xef, 0xbe, 1]),
    }
}

pub struct Server {
    pub wire: Arc<Wire>,
    pub address: SocketAddr,
    held: Mutex<Receiver<Call>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn start() -> Server {
        Server::with(Limits::default(), None)
    }

    pub fn with(limits: Limits, upstream: Option<PathBuf>) -> Server {
        Server::with_tls(limits, upstream, None)
    }

    pub fn with_tls(limits: Limits, upstream: Option<PathBuf>, tls: Option<TlsAcceptor>) -> Server {
        let (held_in, held) = channel();
        let (elsewhere_in, elsewhere) = channel::<Call>();
        std::thread::spawn(move || {
            while let Ok(call) = elsewhere.recv() {
                (call.answer)(Ok(call.body));
            }
        });
        let node = Node {
            held: Mutex::new(held_in),
            elsewhere: Mutex::new(elsewhere_in),
        };
        let row = |kind: &&str| {
            let code = match *kind {
                "deadline" => 4,
                "outcome_unknown" | "shutting_down" => 14,
                "malformed" => 3,
                "unimplemented" => 12,
                "not_loopback" => 7,
                _ => 8,
            };
            let details = Bytes::from(kind.to_string());
            (
                kind.to_string(),
                Failure {
                    code,
                    message: kind.to_string(),
                    details,
                },
            )
        };
        let routes = [
            ("/t.S/Echo", ECHO, true, false),
            ("/t.S/Elsewhere", ECHO_ELSEWHERE, true, false),
            ("/t.S/Hold", HOLD, true, false),
            ("/t.S/HoldWrite", HOLD_WRITE, false, false),
            ("/t.S/Fail", FAIL, true, false),
            ("/t.S/Stream", STREAM, false, true),
        ];
        let route = |(path, method, reads, streams): (&str, u32, bool, bool)| {
            let route = Route {
                method,
                reads,
                streams,
            };
            (path.to_string(), route)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let config = Config {
            listen: wire::bind("127.0.0.1:0").unwrap(),
            local: None,
            routes: routes.into_iter().map(route).collect(),
            failures: FAILURES.iter().map(row).collect::<HashMap<_, _>>(),
            upstream,
            limits,
            insecure: false,
            tls,
        };
        let wire = wire::start(runtime.handle(), config, Arc::new(node)).unwrap();
        Server {
            address: wire.address(),
            wire: Arc::new(wire),
            held: Mutex::new(held),
            runtime: Some(runtime),
        }
    }

    /// The next call that is kept.
    pub async fn held(&self) -> Call {
        within(async {
            loop {
                if let Ok(call) = self.held.lock().unwrap().try_recv() {
                    return call;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    pub async fn drain(&self, timeout: Duration) -> JoinHandle<bool> {
        let wire = self.wire.clone();
        tokio::task::spawn_blocking(move || wire.drain(timeout))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.wire.close();
        self.runtime.take().unwrap().shutdown_background();
    }
}

pub async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(LONG, work)
        .await
        .expect("it takes too long")
}

/// Waits for something that other tasks bring about.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + LONG;
    while !holds() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub struct Client {
    pub requests: SendRequest<Bytes>,
    pings: PingPong,
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// All of an answer.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    fn status(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.headers)
    }

    pub fn code(&self) -> u32 {
        self.text("grpc-status").parse().unwrap()
    }

    pub fn message(&self) -> &str {
        self.text("grpc-message")
    }

    pub fn text(&self, name: &str) -> &str {
        self.status()
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The message of a good answer.
    pub fn good(&self) -> Bytes {
        assert_eq!(
            (self.http, self.text("grpc-status")),
            (200, "0"),
            "{self:?}"
        );
        let (head, body) = self.body.split_at(5);
        assert_eq!(head[0], 0);
        assert_eq!(
            u32::from_be_bytes(head[1..].try_into().unwrap()) as usize,
            body.len()
        );
        self.body.slice(5..)
    }
}

pub fn message(body: &[u8]) -> Bytes {
    flagged(0, body)
}

pub fn flagged(flag: u8, body: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.extend_from_slice(&[flag]);
    framed.extend_from_slice(&(body.len() as u32).to_be_bytes());
    framed.extend_from_slice(body);
    framed.freeze()
}

pub fn post(path: &str) -> Request<()> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

pub fn post_with(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = post(path);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// A client with room for large answers.
pub fn builder() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(8 << 20)
        .data_frame_budget(8 << 20);
    builder
}

pub type Pending = (client::ResponseFuture, SendStream<Bytes>);

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        Client::with(address, &builder()).await
    }

    pub async fn with(address: SocketAddr, builder: &client::Builder) -> Client {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Client::over(socket, builder).await.unwrap()
    }

    /// None when the server has closed before anything was said.
    pub async fn over<T>(socket: T, builder: &client::Builder) -> Option<Client>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, mut connection) = builder.handshake(socket).await.ok()?;
        let pings = connection.ping_pong().unwrap();
        Some(Client {
            requests,
            pings,
            driver: tokio::spawn(connection),
        })
    }

    /// Opens a call; its body is still to be sent.
    pub async fn open(&mut self, request: Request<()>) -> Pending {
        within(async {
            let ready = self.requests.clone().ready().await.unwrap();
            self.requests = ready;
            self.requests.send_request(request, false).unwrap()
        })
        .await
    }

    /// Sends a whole call.
    pub async fn begin(&mut self, request: Request<()>, body: Bytes) -> client::ResponseFuture {
        let (response, mut stream) = self.open(request).await;
        stream.send_data(body, true).unwrap();
        response
    }

    pub async fn call(&mut self, request: Request<()>, body: Bytes) -> Answer {
        let response = self.begin(request, body).await;
        read(response).await
    }

    pub async fn echo(&mut self, body: &[u8]) -> Bytes {
        self.call(post("/t.S/Echo"), message(body)).await.good()
    }

    /// Returns when the server has seen all that was sent before.
    pub async fn ping(&mut self) {
        within(self.pings.ping(Ping::opaque())).await.unwrap();
    }
}

/// Reads an answer to its end.
pub async fn read(response: client::ResponseFuture) -> Answer {
    within(async { read_body(response.await.unwrap()).await }).await
}

pub async fn read_body(response: Response<RecvStream>) -> Answer {
    let (head, mut stream) = response.into_parts();
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
    }
    let trailers = stream.trailers().await.unwrap();
    Answer {
        http: head.status.as_u16(),
        headers: head.headers,
        body: body.freeze(),
        trailers,
    }
}

pub fn good(body: &'static [u8]) -> Reply {
    Ok(Bytes::from_static(body))
}

/// Waits for room to send up to `want` bytes. None when the stream has ended.
pub async fn room(out: &mut SendStream<Bytes>, want: usize) -> Option<usize> {
    out.reserve_capacity(want);
    while out.capacity() == 0 {
        poll_fn(|cx| out.poll_capacity(cx)).await?.ok()?;
    }
    Some(out.capacity().min(want))
}
