//! The public port of a node: the wire in front, the raft part behind it.
use crate::call::{Failure, Route};
use crate::raft::calls::Calls;
use crate::raft::node::Node;
use crate::wire::{self, Config, Counters, Limits, Pem, Wire};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// What the port is started with, and the running one.
pub struct Door {
    /// To listen on; empty = no public port.
    pub grpc_addr: String,
    pub upstream: Option<PathBuf>,
    /// A unix socket to listen on beside the public port.
    pub local: Option<PathBuf>,
    pub routes: HashMap<String, Route>,
    pub failures: HashMap<String, Failure>,
    tls: Option<TlsAcceptor>,
    running: Mutex<Option<Arc<Wire>>>,
}

/// Listening sockets of which nothing is served yet.
pub struct Bound {
    listen: TcpListener,
    local: Option<UnixListener>,
}

impl Door {
    /// Checks what the wire would refuse later. `upstream` empty = other calls are unimplemented.
    pub fn new(
        grpc_addr: String,
        local: &str,
        upstream: &str,
        routes: HashMap<String, Route>,
        failures: HashMap<String, Failure>,
        tls: Option<Pem<'_>>,
    ) -> io::Result<Door> {
        if let Some(missing) = wire::FAILURES.iter().find(|f| !failures.contains_key(**f)) {
            let text = format!("no row for the failure \"{missing}\"");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let local = (!local.is_empty()).then(|| local.into());
        let upstream = (!upstream.is_empty()).then(|| upstream.into());
        Ok(Door {
            grpc_addr,
            upstream,
            local,
            routes,
            failures,
            tls: tls.as_ref().map(wire::acceptor).transpose()?,
            running: Mutex::new(None),
        })
    }

    /// Binds the port and the local socket, if there is to be a port.
    pub fn bind(&self) -> io::Result<Option<Bound>> {
        let listen = match self.grpc_addr.as_str() {
            "" => return Ok(None),
            address => wire::bind(address)?,
        };
        let local = self.local.as_deref().map(wire::bind_local).transpose()?;
        Ok(Some(Bound { listen, local }))
    }

    /// Serves on what was bound.
    pub fn open(&self, node: &Node, bound: Bound) -> io::Result<()> {
        let options = &node.shared.options;
        let limits = Limits {
            message_bytes: options.message_bytes_max as usize,
            metadata_bytes: options.metadata_bytes_max as usize,
            deadline_default: Duration::from_millis(options.deadline_ms_default),
            deadline_max: Duration::from_millis(options.deadline_ms_max),
            streams_per_connection: options.streams_per_connection_max as u32,
            stream_bytes: options.stream_bytes,
            connections: options.connections_max as usize,
            connections_per_address: options.connections_per_address_max as usize,
            handshake: Duration::from_millis(options.handshake_ms_max),
        };
        let config = Config {
            listen: bound.listen,
            local: bound.local,
            routes: self.routes.clone(),
            failures: self.failures.clone(),
            upstream: self.upstream.clone(),
            limits,
            insecure: options.insecure != 0,
            tls: self.tls.clone(),
        };
        let handler = Arc::new(Calls(node.shared.clone()));
        let wire = wire::start(node.handle(), config, handler)?;
        *self.running.lock() = Some(Arc::new(wire));
        Ok(())
    }

    fn running(&self) -> Option<Arc<Wire>> {
        self.running.lock().clone()
    }

    pub fn counters(&self) -> Counters {
        self.running().map(|w| w.counters()).unwrap_or_default()
    }

    /// Stops accepting and waits for the calls under way. Blocks.
    pub fn drain(&self, limit: Duration) {
        if let Some(wire) = self.running() {
            wire.drain(limit);
        }
    }

    /// Ends everything. Blocks for less than a second. Idempotent.
    pub fn close(&self) {
        let wire = self.running.lock().take();
        if let Some(wire) = wire {
            wire.close();
            if let Some(path) = &self.local {
                let _ = std::fs::remove_file(path); // one left behind does no harm
            }
        }
    }
}
