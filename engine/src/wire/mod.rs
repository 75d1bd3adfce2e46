//! The public gRPC port: HTTP/2 by h2, gRPC framing by us.
//!
//! ```text
//!            ┌ connection (one task each: reads, answers, deadlines) ─ hot calls ──► Handler
//!  accept ──►│        ▲                                                                │
//!            │        └──────── mailbox ◄─────── Ticket, Outlet (any thread) ◄─────────┘
//!            └ forward (one task a stream) ──► upstream (pool) ──► stock gRPC server, unix socket
//! ```
//!
//! Hot calls are the ones that `routes` names; they are handed to the node whole, and answered by
//! one message or by a stream of them. Every other call is forwarded as a whole HTTP/2 stream, with
//! flow control, trailers, deadline and cancellation. A caller that goes away never ends a unary
//! call: only the answer is dropped. Of a streamed answer the node hears that nobody wants it.
mod accept;
mod body;
mod connection;
mod forward;
mod frame;
mod gathered;
mod grpc;
mod head;
mod hot;
mod limits;
mod meter;
mod peer;
mod pulse;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod upstream;
mod visitors;
mod waiting;

pub use limits::Limits;
pub use tls::{Pem, acceptor};

use crate::call::{Failure, Handler, Route};
use peer::Command;
use shared::Shared;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Everything that the port needs to know; nothing of it changes while it runs.
pub struct Config {
    /// Bound by `bind`: nonblocking, without SO_REUSEPORT.
    pub listen: TcpListener,
    /// Bound by `bind_local`; callers on it are of this machine.
    pub local: Option<UnixListener>,
    /// "/dfs.FileService/Put" → what its calls are.
    pub routes: HashMap<String, Route>,
    /// One row for each of `FAILURES`.
    pub failures: HashMap<String, Failure>,
    /// The unix socket of the server for all other calls; without one they are "unimplemented".
    pub upstream: Option<PathBuf>,
    pub limits: Limits,
    /// Serve callers that are not on loopback.
    pub insecure: bool,
    /// From `acceptor`; callers of the public port must speak TLS then.
    pub tls: Option<TlsAcceptor>,
}

/// The kinds of refusal that the wire gives by itself.
pub const FAILURES: [&str; 10] = [
    "outcome_unknown",
    "overloaded",
    "deadline",
    "too_large",
    "metadata_too_large",
    "shutting_down",
    "malformed",
    "unimplemented",
    "not_loopback",
    "needs_tls",
];

/// Figures of this moment (connections, streams) and since the start (calls, bytes of messages).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections: u64,
    /// Hot calls without an answer yet, and forwarded streams.
    pub streams: u64,
    pub calls: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// The running port.
pub struct Wire {
    shared: Arc<Shared>,
    acceptors: Vec<AbortHandle>,
    clock: AbortHandle,
    address: SocketAddr,
}

/// Binds a listening socket for `Config`. A port that another server has is an error (EADDRINUSE).
pub fn bind(address: &str) -> io::Result<TcpListener> {
    let listen = TcpListener::bind(address)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?;
    listen.set_nonblocking(true)?;
    Ok(listen)
}

/// Binds the socket that only this user can open. What a former process left there goes: the caller
/// holds the lock of the data directory.
pub fn bind_local(path: &Path) -> io::Result<UnixListener> {
    let say = |e: io::Error| {
        io::Error::new(
            e.kind(),
            format!("cannot listen on {}: {e}", path.display()),
        )
    };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(say(e)),
        _ => {}
    }
    let listen = UnixListener::bind(path).map_err(say)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(say)?;
    listen.set_nonblocking(true)?;
    Ok(listen)
}

/// Starts to serve on the runtime.
pub fn start(rt: &Handle, config: Config, handler: Arc<dyn Handler>) -> io::Result<Wire> {
    if let Some(missing) = FAILURES
        .iter()
        .find(|kind| !config.failures.contains_key(**kind))
    {
        let text = format!("no row for the failure \"{missing}\"");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let _inside = rt.enter();
    let address = config.listen.local_addr()?;
    let listen = tokio::net::TcpListener::from_std(config.listen.try_clone()?)?;
    let local = match &config.local {
        Some(local) => Some(tokio::net::UnixListener::from_std(local.try_clone()?)?),
        None => None,
    };
    let shared = Arc::new(Shared::new(config, handler));
    let present = shared.census.enter();
    let accepting = rt.spawn(accept::run(listen, shared.clone(), present));
    let mut acceptors = vec![accepting.abort_handle()];
    if let Some(local) = local {
        let present = shared.census.enter();
        let accepting = rt.spawn(accept::run_local(local, shared.clone(), present));
        acceptors.push(accepting.abort_handle());
    }
    let clock = rt.spawn(shared.ticks.clone().run()).abort_handle();
    Ok(Wire {
        shared,
        acceptors,
        clock,
        address,
    })
}

impl Wire {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    fn stop_accepting(&self) {
        for acceptor in &self.acceptors {
            acceptor.abort();
        }
    }

    /// Stops accepting, says GOAWAY, waits until all streams have ended. True when they have.
    /// Blocks: not from a task of the runtime.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.stop_accepting();
        self.shared.command_all(Command::Drain);
        self.shared.census.wait(Instant::now() + timeout)
    }

    /// Ends everything at once; later answers go nowhere. Blocks for the tasks to end (under a
    /// second): not from a task of the runtime. Idempotent.
    pub fn close(&self) {
        self.stop_accepting();
        self.shared.command_all(Command::Close);
        if !self
            .shared
            .census
            .wait(Instant::now() + limits::CLOSE_POLITE)
        {
            self.shared.abort_all();
        }
        self.shared.upstream_close();
        self.clock.abort();
        let until = Instant::now() + limits::CLOSE_FORCED;
        self.shared.census.wait(until);
        if let Some(upstream) = &self.shared.upstream {
            upstream.census().wait(until);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop_accepting();
        self.shared.abort_all();
        self.shared.upstream_close();
        self.clock.abort();
    }
}
