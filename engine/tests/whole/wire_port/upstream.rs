//! The server behind the port, as a fake: HTTP/2 on a unix socket, one behaviour for each path.
use super::harness::room;
use bytes::{Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub streams: AtomicUsize,
    pub resets: AtomicUsize,
    /// Sent by "/t.U/Endless", taken by the transport.
    pub sent: AtomicU64,
}

pub struct Upstream {
    pub seen: Arc<Seen>,
    pub path: PathBuf,
    task: JoinHandle<()>,
    connections: mpsc::UnboundedReceiver<JoinHandle<()>>,
}

impl Upstream {
    pub fn start(path: &Path) -> Upstream {
        let _ = std::fs::remove_file(path);
        let listen = UnixListener::bind(path).unwrap();
        let seen = Arc::new(Seen::default());
        let (started, connections) = mpsc::unbounded_channel();
        let seen_ = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listen.accept().await.unwrap();
                seen_.connections.fetch_add(1, SeqCst);
                let seen = seen_.clone();
                let serve = async move {
                    let mut connection = server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let seen = seen.clone();
                        tokio::spawn(async move {
                            seen.streams.fetch_add(1, SeqCst);
                            serve(&seen, request, respond).await;
                            seen.streams.fetch_sub(1, SeqCst);
                        });
                    }
                };
                let _ = started.send(tokio::spawn(serve));
            }
        });
        Upstream {
            seen,
            path: path.into(),
            task,
            connections,
        }
    }

    /// Ends all at once, as a killed process does.
    pub async fn kill(mut self) {
        self.task.abort();
        while let Ok(connection) = self.connections.try_recv() {
            connection.abort();
            let _ = connection.await;
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn ok() -> Response<()> {
    let response = Response::builder().header("content-type", "application/grpc");
    response.header("x-initial", "yes").body(()).unwrap()
}

fn trailers(code: u32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("x-trailing-bin", "/+++".parse().unwrap());
    trailers
}

async fn serve(seen: &Seen, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/t.U/TrailersOnly" => {
            let response = Response::builder()
                .header("grpc-status", 9)
                .header("grpc-message", "no");
            let _ = respond.send_response(response.body(()).unwrap(), true);
        }
        // One message with what came, after the caller has ended.
        "/t.U/Headers" => {
            let text = format!("{:?} {:?} {:?}", head.method, head.uri, head.headers);
            let mut out = respond.send_response(ok(), false).unwrap();
            let _ = out.send_data(Bytes::from(text), false);
            let _ = out.send_trailers(trailers(0));
        }
        "/t.U/Bidi" => echo(body, respond.send_response(ok(), false).unwrap()).await,
        "/t.U/Upload" => upload(body, respond).await,
        "/t.U/Hang" => {
            let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
            seen.resets.fetch_add(1, SeqCst);
        }
        "/t.U/Endless" => endless(seen, respond.send_response(ok(), false).unwrap()).await,
        "/t.U/Reset" => {
            let mut out = respond.send_response(ok(), false).unwrap();
            let _ = out.send_data(Bytes::from_static(b"some"), false);
            let mut body = body;
            while let Some(Ok(_)) = body.data().await {} // until the caller has it
            out.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        // Ends while the caller still sends.
        "/t.U/Early" => {
            let mut out = respond.send_response(ok(), false).unwrap();
            let _ = out.send_trailers(trailers(3));
        }
        other => panic!("{other}"),
    }
}

async fn echo(mut body: RecvStream, mut out: SendStream<Bytes>) {
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        if out.send_data(chunk, false).is_err() {
            return;
        }
    }
    let _ = out.send_trailers(trailers(0));
}

/// Answers with the count of bytes that came.
async fn upload(mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    let mut bytes = 0;
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else {
            return; // cancelled
        };
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes += chunk.len();
    }
    let mut out = respond.send_response(ok(), false).unwrap();
    let _ = out.send_data(Bytes::from(bytes.to_string()), false);
    let _ = out.send_trailers(trailers(0));
}

async fn endless(seen: &Seen, mut out: SendStream<Bytes>) {
    let chunk = BytesMut::zeroed(10_000).freeze();
    while let Some(bytes) = room(&mut out, chunk.len()).await {
        let part = chunk.slice(..bytes);
        seen.sent.fetch_add(part.len() as u64, SeqCst);
        if out.send_data(part, false).is_err() {
            break;
        }
    }
    seen.resets.fetch_add(1, SeqCst);
}
