//! The listening socket: who is let in, and what those hear who are not.
use super::connection;
use super::limits::{ACCEPT_RETRY, REFUSE, REFUSED_CONNECTIONS};
use super::peer::Peer;
use super::shared::{Gauge, Present, Shared};
use crate::call::Failure;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How an HTTP/2 client greets.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What those read who speak HTTP/1.
const HTTP1_ANSWER: &str = "HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\nconnection: close\r\n\r\n\
    This port speaks gRPC, over HTTP/2 only. Try: grpcurl -plaintext HOST:PORT list\n";

pub async fn run(listen: TcpListener, shared: Arc<Shared>, _present: Present) {
    loop {
        match listen.accept().await {
            Ok((socket, from)) => {
                let refusal = refusal(&shared, from);
                admit(&shared, refusal, async move |shared, peer, refusal| {
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
                let refusal = crowded(&shared);
                admit(&shared, refusal, async move |shared, peer, refusal| {
                    let by = Instant::now() + shared.limits.handshake;
                    connection::serve(shared, peer, socket, refusal, by).await;
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

/// Serves the connection, or lets it hear why not, or drops it.
fn admit<F, T>(shared: &Arc<Shared>, refusal: Option<Failure>, talk: F)
where
    F: FnOnce(Arc<Shared>, Arc<Peer>, Option<Failure>) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
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
        let (_present, _gauge) = (present, gauge);
        talk(registered.shared.clone(), peer, refusal).await;
    });
    shared.attach(id, task.abort_handle());
}

async fn converse(
    shared: &Arc<Shared>,
    peer: Arc<Peer>,
    mut socket: TcpStream,
    refusal: Option<Failure>,
) {
    let by = Instant::now() + shared.limits.handshake;
    match timeout_at(by, speaks_http2(&socket)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            let _ = timeout_at(by, explain(&mut socket)).await;
            return;
        }
        Ok(Err(_)) | Err(_) => return,
    }
    let refused = refusal.is_some();
    let served = connection::serve(shared.clone(), peer, socket, refusal, by);
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

pub fn refusal(shared: &Shared, from: SocketAddr) -> Option<Failure> {
    let from = from.ip();
    if !shared.insecure && !from.to_canonical().is_loopback() {
        return Some(
            shared
                .failure("not_loopback")
                .with(format_args!("you call from {from}")),
        );
    }
    crowded(shared)
}

fn crowded(shared: &Shared) -> Option<Failure> {
    let most = shared.limits.connections;
    if shared.totals.connections.load(Relaxed) < most as u64 {
        return None;
    }
    Some(
        shared
            .failure("overloaded")
            .with(format_args!("{most} connections are open")),
    )
}

/// Looks at the first bytes without taking them; h2 checks the rest of the preface.
async fn speaks_http2(socket: &TcpStream) -> io::Result<bool> {
    socket.set_nodelay(true)?;
    let mut first = [0; PREFACE.len()];
    let seen = socket.peek(&mut first).await?;
    if seen == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(PREFACE.starts_with(&first[..seen]))
}

/// Tells a browser or curl what this port is.
async fn explain(socket: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; 4096]; // unread bytes would turn the close into a reset
    let read = socket.read(&mut request).await?;
    if request[..read].is_ascii() {
        socket.write_all(HTTP1_ANSWER.as_bytes()).await?;
    }
    socket.shutdown().await
}
