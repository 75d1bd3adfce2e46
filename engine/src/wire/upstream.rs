//! Connections to the server that takes the forwarded calls: dialled when needed, again when lost.
use super::frame::Frame;
use super::limits::{
    DIAL, FORWARD_BUFFER, LINK_FRAME_BUDGET, LINK_METADATA_BYTES, LINK_STREAM_WINDOW, LINK_STREAMS,
    LINK_WINDOW, LINKS, UPSTREAM_PAUSE, UPSTREAM_STARTS,
};
use super::shared::Census;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::Request;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

pub struct Upstream {
    path: PathBuf,
    born: Instant,
    /// It has been there since: when it is gone, it does not start, it has stopped.
    seen: AtomicBool,
    links: Arc<Mutex<Vec<Link>>>,
    /// One dials at a time; the others then find the new connection.
    dialling: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    census: Arc<Census>,
}

/// One connection.
struct Link {
    serial: u64,
    sender: SendRequest<Frame>,
    streams: usize,
    driver: AbortHandle,
}

/// Why a call cannot be forwarded.
#[derive(Debug)]
pub enum Unreachable {
    /// Nobody listens, or the connection broke.
    Down(String),
    /// As many streams as there may be.
    Full,
}

/// A place on a connection for one stream; free again when dropped.
pub struct Lease {
    links: Arc<Mutex<Vec<Link>>>,
    serial: u64,
    sender: SendRequest<Frame>,
}

impl Upstream {
    pub fn new(path: PathBuf) -> Upstream {
        Upstream {
            path,
            born: Instant::now(),
            seen: AtomicBool::new(false),
            links: Arc::default(),
            dialling: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            census: Arc::default(),
        }
    }

    /// Opens a stream. `whole`: the request has no body.
    pub async fn send(
        &self,
        request: Request<()>,
        whole: bool,
    ) -> Result<(Lease, ResponseFuture, SendStream<Frame>), Unreachable> {
        loop {
            let (lease, fresh) = self.lease().await?;
            // The connection may have ended without anybody having looked since.
            match lease.sender.clone().ready().await {
                Ok(mut sender) => {
                    let sent = sender
                        .send_request(request, whole)
                        .map_err(|e| self.down(e))?;
                    return Ok((lease, sent.0, sent.1));
                }
                Err(e) if fresh => return Err(self.down(e)),
                Err(_) => lease.discard(),
            }
        }
    }

    /// A place on a connection that has one, else on a new one; true when it is new.
    async fn lease(&self) -> Result<(Lease, bool), Unreachable> {
        if let Some(lease) = self.vacancy() {
            return Ok((lease, false));
        }
        let _turn = self.dialling.lock().await;
        if let Some(lease) = self.vacancy() {
            return Ok((lease, false));
        }
        if self.links.lock().len() >= LINKS {
            return Err(Unreachable::Full);
        }
        self.dial().await?;
        let lease = self
            .vacancy()
            .ok_or_else(|| self.down("it closed the connection"))?;
        Ok((lease, true))
    }

    /// Fills the oldest connections first, so that the later ones fall idle and go.
    fn vacancy(&self) -> Option<Lease> {
        let mut links = self.links.lock();
        let link = links
            .iter_mut()
            .find(|link| link.streams < LINK_STREAMS.min(link.sender.current_max_send_streams()))?;
        link.streams += 1;
        let (serial, sender) = (link.serial, link.sender.clone());
        drop(links);
        Some(Lease {
            links: self.links.clone(),
            serial,
            sender,
        })
    }

    async fn dial(&self) -> Result<(), Unreachable> {
        let dialled = async {
            let socket = self.connect().await?;
            builder()
                .handshake::<_, Frame>(socket)
                .await
                .map_err(io::Error::other)
        };
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let connected = timeout(DIAL, dialled).await.unwrap_or_else(|_| Err(late()));
        let (sender, connection) = connected.map_err(|e| self.down(e))?;
        let mut links = self.links.lock();
        if self.closed.load(Relaxed) {
            return Err(self.down("this node is closing"));
        }
        let serial = links.last().map_or(0, |link| link.serial + 1);
        let (present, all) = (self.census.enter(), self.links.clone());
        // It cannot remove itself before it is entered: the lock is held.
        let driver = tokio::spawn(async move {
            let _present = present;
            let _ = connection.await;
            all.lock().retain(|link| link.serial != serial);
        });
        links.push(Link {
            serial,
            sender,
            streams: 0,
            driver: driver.abort_handle(),
        });
        Ok(())
    }

    /// Python begins to listen when Raft runs already.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            let connected = UnixStream::connect(&self.path).await;
            let starts = !self.seen.load(Relaxed) && self.born.elapsed() < UPSTREAM_STARTS;
            match connected {
                Err(_) if starts && !self.closed.load(Relaxed) => sleep(UPSTREAM_PAUSE).await,
                Ok(socket) => {
                    self.seen.store(true, Relaxed);
                    return Ok(socket);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn down(&self, why: impl std::fmt::Display) -> Unreachable {
        Unreachable::Down(down(&self.path, why))
    }

    /// Why a stream broke that had been sent.
    pub fn broken(&self, error: &h2::Error) -> String {
        down(&self.path, error)
    }

    /// Ends all connections; no new ones are made.
    pub fn close(&self) {
        let links = self.links.lock();
        self.closed.store(true, Relaxed);
        for link in links.iter() {
            link.driver.abort();
        }
    }

    /// Whose presence ends when the connections have.
    pub fn census(&self) -> &Census {
        &self.census
    }
}

fn down(path: &Path, why: impl std::fmt::Display) -> String {
    format!(
        "the part of this node that serves this call does not answer (it starts, or has stopped): \
         {}: {why}",
        path.display()
    )
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(LINK_STREAM_WINDOW)
        .initial_connection_window_size(LINK_WINDOW)
        .data_frame_budget(LINK_FRAME_BUDGET)
        .max_header_list_size(LINK_METADATA_BYTES)
        .max_send_buffer_size(FORWARD_BUFFER);
    builder
}

impl Lease {
    /// The connection is found dead: nobody else is to try it.
    fn discard(self) {
        let mut links = self.links.lock();
        if let Some(at) = links.iter().position(|link| link.serial == self.serial) {
            links.remove(at);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut links = self.links.lock();
        let Some(at) = links.iter().position(|link| link.serial == self.serial) else {
            return;
        };
        links[at].streams -= 1;
        // The first stays for the next call; dropping the last sender ends a connection.
        if links[at].streams == 0 && at > 0 {
            links.remove(at);
        }
    }
}
