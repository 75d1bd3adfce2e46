//! The listening sockets: who is let in, and what those hear who are not.
use super::connection;
use super::limits::{ACCEPT_RETRY, HTTP1_BYTES, REFUSE, REFUSED_CONNECTIONS};
use super::peer::Peer;
use super::shared::{Gauge, Present, Shared};
use super::visitors::{Origin, Visit};
use crate::call::Failure;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How an HTTP/2 client greets.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of TLS: a record with a part of the handshake.
const TLS_HANDSHAKE: u8 = 22;
/// What those read who speak HTTP/1, and the rest of it by whether the port has TLS.
const HTTP1_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\nconnection: close\r\n\r\n\
    This port speaks gRPC, over HTTP/2 only";
const TRY_PLAIN: &str = ". Try: grpcurl -plaintext HOST:PORT list\n";
const TRY_TLS: &str = " and with TLS. Try: grpcurl -cacert CA.pem HOST:PORT list\n";

pub async fn run(listen: TcpListener, shared: Arc<Shared>, _present: Present) {
    loop {
        match listen.accept().await {
            Ok((socket, from)) => {
                let visit = enter(&shared, from);
                admit(&shared, visit, async move |shared, peer, refusal| {
                    converse(&shared, peer, socket, refusal).await
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// The same for the socket that only programs of this machine and user can open.
pub async fn run_local(listen: UnixListener, shared: Arc<Shared>, _present: Present) {
    loop {
        match listen.accept().await {
            Ok((socket, _)) => {
                let visit = enter_as(&shared, Origin::Local);
                admit(&shared, visit, async move |shared, peer, refusal| {
                    let by = Instant::now() + shared.limits.handshake;
                    talk(shared, peer, socket, refusal, by).await;
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        // No descriptors or memory left: those in use come back.
        sleep(ACCEPT_RETRY).await;
    }
}

/// Who may come in from there.
pub fn enter(shared: &Shared, from: SocketAddr) -> Result<Visit, Failure> {
    let from = from.ip();
    if !shared.insecure && !from.to_canonical().is_loopback() {
        let text = format_args!("you call from {from}");
        return Err(shared.failure("not_loopback").with(text));
    }
    enter_as(shared, Origin::of(from))
}

fn enter_as(shared: &Shared, origin: Origin) -> Result<Visit, Failure> {
    shared
        .visitors
        .enter(origin, &shared.limits)
        .map_err(|text| shared.failure("overloaded").with(text))
}

/// Serves the connection, or lets it hear why not, or drops it.
fn admit<F, T>(shared: &Arc<Shared>, visit: Result<Visit, Failure>, talk: F)
where
    F: FnOnce(Arc<Shared>, Arc<Peer>, Option<Failure>) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let (visit, refusal) = match visit {
        Ok(visit) => (Some(visit), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let gauge = match refusal {
        None => Gauge::new(&shared.totals, |t| &t.connections),
        Some(_) if shared.totals.refused.load(Relaxed) >= REFUSED_CONNECTIONS as u64 => return,
        Some(_) => Gauge::new(&shared.totals, |t| &t.refused),
    };
    let Some((id, peer)) = shared.register() else {
        return;
    };
    let present = shared.census.enter();
    let registered = Registered {
        shared: shared.clone(),
        id,
    };
    let task = tokio::spawn(async move {
        let (_present, _gauge, _visit) = (present, gauge, visit);
        talk(registered.shared.clone(), peer, refusal).await;
    });
    shared.attach(id, task.abort_handle());
}

/// How a caller begins.
enum Greeting {
    Http2,
    Tls,
    Other,
}

async fn converse(
    shared: &Arc<Shared>,
    peer: Arc<Peer>,
    mut socket: TcpStream,
    refusal: Option<Failure>,
) {
    let by = Instant::now() + shared.limits.handshake;
    let Ok(Ok(greeting)) = timeout_at(by, greeting(&socket)).await else {
        return;
    };
    match (greeting, &shared.tls) {
        (Greeting::Http2, None) => talk(shared.clone(), peer, socket, refusal, by).await,
        (Greeting::Http2, Some(_)) => {
            let refusal = refusal.unwrap_or_else(|| shared.failure("needs_tls"));
            talk(shared.clone(), peer, socket, Some(refusal), by).await;
        }
        (Greeting::Tls, Some(tls)) => {
            if let Ok(Ok(socket)) = timeout_at(by, tls.accept(socket)).await {
                talk(shared.clone(), peer, socket, refusal, by).await;
            }
        }
        (Greeting::Tls, None) => {} // only TLS could explain it
        (Greeting::Other, tls) => {
            let _ = timeout_at(by, explain(&mut socket, tls.is_some())).await;
        }
    }
}

/// Serves a caller, or tells it once why not.
async fn talk<T>(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    socket: T,
    refusal: Option<Failure>,
    by: Instant,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let refused = refusal.is_some();
    let served = connection::serve(shared, peer, socket, refusal, by);
    if refused {
        let _ = timeout(REFUSE, served).await;
    } else {
        served.await;
    }
}

/// Takes a connection out of the registry when its task ends, also by force.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.unregister(self.id);
    }
}

/// Looks at the first bytes without taking them; h2 and TLS check the rest.
async fn greeting(socket: &TcpStream) -> io::Result<Greeting> {
    socket.set_nodelay(true)?;
    let mut first = [0; PREFACE.len()];
    let seen = socket.peek(&mut first).await?;
    match first[..seen] {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        [TLS_HANDSHAKE, ..] => Ok(Greeting::Tls),
        _ if PREFACE.starts_with(&first[..seen]) => Ok(Greeting::Http2),
        _ => Ok(Greeting::Other),
    }
}

/// Tells a browser or curl what this port is. What else it sends is read: unread bytes would turn
/// the close into a reset, which can overtake the answer.
async fn explain(socket: &mut TcpStream, tls: bool) -> io::Result<()> {
    let mut request = [0; 4096];
    let read = socket.read(&mut request).await?;
    if !request[..read].is_ascii() {
        return Ok(());
    }
    let rest = if tls { TRY_TLS } else { TRY_PLAIN };
    let answer = [HTTP1_ANSWER, rest].concat();
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await?;
    let mut total = read;
    while total < HTTP1_BYTES {
        match socket.read(&mut request).await? {
            0 => break,
            more => total += more,
        }
    }
    Ok(())
}
