//! The Python class Engine: plain values in and out, one crossing a batch. See _engine.pyi.
mod contents;
mod lying;
mod turn;

use crate::call::Route;
use crate::door::Door;
use crate::raft::calls::Plain;
use crate::raft::log::Promises;
use crate::raft::members::{NotChanged, Told};
use crate::raft::node::{Node, Setup, StartError, applied_of};
use crate::raft::options::Options;
use crate::raft::queue::WorkKind;
use crate::raft::types::Member;
use crate::wire::Pem;
use bytes::Bytes;
use contents::Wanted;
use pyo3::create_exception;
use pyo3::exceptions::{
    PyBlockingIOError, PyConnectionError, PyException, PyOSError, PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use turn::{Given, failure_of, reply_of, taken_to};

create_exception!(
    _engine,
    EngineError,
    PyException,
    "The log, a snapshot or the transport is in a state that needs a person; says what to do."
);

const CLUSTER_BYTES: usize = 16;
/// A message to so many is sent faster than the interpreter lock is given back and taken again.
const RECEIVERS_AT_ONCE: usize = 64;

/// A member: id, name, peer address, public address, whether it votes.
type Row = (u64, String, String, String, bool);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// An I/O error as Python knows it; damage is an EngineError.
fn io_error(e: io::Error) -> PyErr {
    match e.kind() {
        io::ErrorKind::WouldBlock => PyBlockingIOError::new_err(e.to_string()),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            EngineError::new_err(e.to_string())
        }
        io::ErrorKind::InvalidInput => PyValueError::new_err(e.to_string()),
        io::ErrorKind::AddrInUse => PyOSError::new_err((libc::EADDRINUSE, e.to_string())),
        io::ErrorKind::AddrNotAvailable => PyOSError::new_err((libc::EADDRNOTAVAIL, e.to_string())),
        io::ErrorKind::PermissionDenied => PyOSError::new_err((libc::EACCES, e.to_string())),
        _ => match e.raw_os_error() {
            Some(code) => PyOSError::new_err((code, e.to_string())),
            None => PyOSError::new_err(e.to_string()),
        },
    }
}

/// What went wrong with another node.
fn peer_error(e: io::Error) -> PyErr {
    match e.kind() {
        io::ErrorKind::TimedOut => PyTimeoutError::new_err(e.to_string()),
        io::ErrorKind::InvalidData => EngineError::new_err(e.to_string()),
        io::ErrorKind::StorageFull => PyOSError::new_err((libc::ENOSPC, e.to_string())),
        _ => PyConnectionError::new_err(e.to_string()),
    }
}

/// The log could not be opened: what is not the system's refusal is damage.
fn open_error(e: io::Error) -> PyErr {
    if e.kind() == io::ErrorKind::Other && e.raw_os_error().is_none() {
        return EngineError::new_err(format!("the log cannot be opened: {e}"));
    }
    io_error(e)
}

fn told<T>(result: Told<T>) -> PyResult<T> {
    result.map_err(EngineError::new_err)
}

fn options_of(given: &Bound<'_, PyDict>) -> PyResult<Options> {
    let mut options = Options::default();
    for (name, value) in given.iter() {
        let name: String = name.extract()?;
        if !options.set(&name, value.extract()?) {
            return Err(PyValueError::new_err(format!(
                "the engine has no option \"{name}\""
            )));
        }
    }
    Ok(options)
}

fn cluster_of(bytes: &[u8]) -> PyResult<Bytes> {
    match bytes.len() {
        0 | CLUSTER_BYTES => Ok(Bytes::copy_from_slice(bytes)),
        n => Err(PyValueError::new_err(format!(
            "a cluster is 16 bytes or none, not {n}"
        ))),
    }
}

/// One node's Raft member, its log, its peer port and its public gRPC port.
#[pyclass(frozen, module = "dfs._engine")]
struct Engine {
    node: Node,
    door: Door,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, data_dir, name, node_id, cluster, raft_addr, raft_advertise, grpc_addr,
        grpc_advertise, local, upstream, routes, failures, options, tls=None,
        contents=""))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        data_dir: PathBuf,
        name: String,
        node_id: u64,
        cluster: &[u8],
        raft_addr: String,
        raft_advertise: String,
        grpc_addr: String,
        grpc_advertise: String,
        local: String,
        upstream: String,
        routes: HashMap<String, (u32, bool, bool)>,
        failures: &Bound<'_, PyDict>,
        options: &Bound<'_, PyDict>,
        tls: Option<(Vec<u8>, Vec<u8>, Vec<u8>)>,
        contents: &str,
    ) -> PyResult<Engine> {
        if node_id == 0 || node_id >> 63 != 0 {
            return Err(PyValueError::new_err("a node id has 63 bits and is not 0"));
        }
        let mut table = HashMap::new();
        for (kind, failure) in failures.iter() {
            table.insert(kind.extract::<String>()?, failure_of(&failure)?);
        }
        let setup = Setup {
            data_dir,
            id: node_id,
            me: Member {
                name,
                raft: raft_advertise,
                grpc: grpc_advertise,
            },
            cluster: cluster_of(cluster)?,
            raft_addr,
            failures: table.clone(),
            options: options_of(options)?,
            contents: contents.into(),
        };
        let routes = routes.into_iter().map(|(path, (method, reads, streams))| {
            let route = Route {
                method,
                reads,
                streams,
            };
            (path, route)
        });
        let routes = routes.collect();
        let tls = tls
            .as_ref()
            .map(|(certificates, key, client_authorities)| Pem {
                certificates,
                key,
                client_authorities,
            });
        let door = Door::new(grpc_addr, &local, &upstream, routes, table, tls).map_err(io_error)?;
        let node = py.detach(|| Node::open(setup)).map_err(open_error)?;
        Ok(Engine { node, door })
    }

    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let recovery = self.node.recovery();
        let extent = recovery.extent;
        let purged = extent.purged.map_or(0, |l| l.index);
        let last = extent.last.map_or(0, |l| l.index);
        let d = PyDict::new(py);
        d.set_item("first", if last > purged { purged + 1 } else { 0 })?;
        d.set_item("last", last)?;
        d.set_item("purged", purged)?;
        d.set_item("durable", extent.durable)?;
        let (path, log_id, membership, index) = match &recovery.snapshot {
            None => Default::default(),
            Some(s) => (
                s.path.display().to_string(),
                s.meta
                    .last_log_id
                    .as_ref()
                    .map(crate::raft::codec::log_id_bytes),
                crate::raft::codec::membership_bytes(&s.meta.last_membership),
                s.index(),
            ),
        };
        d.set_item("snapshot", path)?;
        d.set_item(
            "snapshot_log_id",
            PyBytes::new(py, &log_id.unwrap_or_default()),
        )?;
        d.set_item("snapshot_membership", PyBytes::new(py, &membership))?;
        d.set_item("snapshot_index", index)?;
        Ok(d)
    }

    fn start(&self, py: Python<'_>, applied: &[u8], membership: &[u8]) -> PyResult<()> {
        let work = || {
            let listen = self.door.bind()?;
            self.node.start(applied, membership)?;
            if let Some(listen) = listen {
                self.door.open(&self.node, listen)?;
            }
            Ok(())
        };
        py.detach(work).map_err(|e| match e {
            StartError::Io(e) => io_error(e),
            StartError::Store(text) => EngineError::new_err(text),
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn step<'py>(
        &self,
        py: Python<'py>,
        applied: &Bound<'py, PyAny>,
        propose: &Bound<'py, PyAny>,
        respond: &Bound<'py, PyAny>,
        changed: &Bound<'py, PyAny>,
        keep: &Bound<'py, PyAny>,
        max_items: usize,
        timeout_ms: u64,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let given = Given::new(applied, propose, respond, changed, keep)?;
        let taken: Result<_, String> = py.detach(|| {
            given.hand_over(&self.node)?;
            Ok(self.node.shared.queue.take(max_items, ms(timeout_ms)))
        });
        match taken {
            Err(text) => Err(PyValueError::new_err(text)),
            Ok(Err(text)) => Err(EngineError::new_err(text)),
            Ok(Ok(taken)) => taken_to(py, &taken),
        }
    }

    fn submit(&self, ticket: u64, entry: &[u8], timeout_ms: u64) {
        self.node.submit(ticket, entry, ms(timeout_ms));
    }

    fn barrier(&self, ticket: u64, min_revision: u64, timeout_ms: u64) {
        self.node.barrier(ticket, min_revision, ms(timeout_ms));
    }

    /// The message is not copied: Python frees it when the wire has let go of it.
    fn send(&self, py: Python<'_>, calls: Vec<u64>, message: PyBackedBytes) -> Vec<(u64, i64)> {
        let message = Bytes::from_owner(message);
        let streams = &self.node.shared.queue.streams;
        if calls.len() > RECEIVERS_AT_ONCE {
            py.detach(|| streams.send(&calls, &message))
        } else {
            streams.send(&calls, &message)
        }
    }

    fn end(&self, call: u64, failure: &Bound<'_, PyAny>) -> PyResult<()> {
        let failure = match failure.is_none() {
            true => None,
            false => Some(failure_of(failure)?),
        };
        self.node.shared.queue.streams.end(call, failure);
        Ok(())
    }

    fn refuse(&self, failure: &Bound<'_, PyAny>) -> PyResult<()> {
        let failure = match failure.is_none() {
            true => None,
            false => Some(failure_of(failure)?),
        };
        *self.node.shared.refusal.write() = failure;
        Ok(())
    }

    fn forget_all(&self, for_good: bool) {
        self.node.shared.queue.forget_answers(for_good);
    }

    fn admit(&self, method: u32, writer: &[u8], data_bytes_max: usize) {
        self.node.admit((!writer.is_empty()).then(|| Plain {
            method,
            writer: Bytes::copy_from_slice(writer),
            data_bytes_max,
        }));
    }

    fn wake(&self) {
        self.node.shared.queue.wake();
    }

    fn frozen(&self, work: u64) {
        self.node.shared.queue.frozen(work);
    }

    fn finish(&self, work: u64, result: &Bound<'_, PyAny>) -> PyResult<()> {
        self.node.shared.queue.finish(work, reply_of(result)?);
        Ok(())
    }

    fn durable(&self, index: u64) {
        self.node.durable(index);
    }

    fn set_cluster(&self, cluster: &[u8]) -> PyResult<()> {
        self.node.shared.set_cluster(cluster_of(cluster)?);
        Ok(())
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let s = self.node.shared.status();
        let d = PyDict::new(py);
        for (name, value) in s.numbers() {
            d.set_item(name, value)?;
        }
        d.set_item("role", s.role)?;
        let promised = self.node.shared.log.promises().encode();
        d.set_item("promised", PyBytes::new(py, &promised))?;
        d.set_item("disk", s.disk)?;
        let members = PyList::empty(py);
        for m in &s.members {
            let one = PyDict::new(py);
            one.set_item("id", m.id)?;
            one.set_item("name", &m.member.name)?;
            one.set_item("raft", &m.member.raft)?;
            one.set_item("grpc", &m.member.grpc)?;
            one.set_item("voter", m.voter)?;
            one.set_item("matched", m.matched)?;
            one.set_item("contact_ms", m.contact_ms)?;
            one.set_item("error", &m.error)?;
            members.append(one)?;
        }
        d.set_item("members", members)?;
        let counters = self.door.counters();
        d.set_item("streams", counters.streams)?;
        d.set_item("connections", counters.connections)?;
        Ok(d)
    }

    fn initialize(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<()> {
        let shared = &self.node.shared;
        told(py.detach(|| self.node.operate(shared.initialize(ms(timeout_ms)))))
    }

    fn ask<'py>(
        &self,
        py: Python<'py>,
        addr: &str,
        body: &[u8],
        timeout_ms: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        match py.detach(|| self.node.ask(addr, body, ms(timeout_ms))) {
            Ok(Ok(answer)) => Ok(PyBytes::new(py, &answer)),
            Ok(Err(failure)) => Err(EngineError::new_err(failure.message)),
            Err(e) => Err(peer_error(e)),
        }
    }

    fn lost(&self, promised: &[u8]) -> PyResult<String> {
        let promised = Promises::decode(&mut Bytes::copy_from_slice(promised));
        let found = self.node.shared.log.lost(&promised.map_err(io_error)?);
        Ok(found.unwrap_or_default())
    }

    fn objection(&self, applied: &[u8]) -> PyResult<String> {
        let found = applied_of(applied).and_then(|applied| self.node.objection(applied));
        Ok(found.map_err(io_error)?.unwrap_or_default())
    }

    fn fetch_snapshot(
        &self,
        py: Python<'_>,
        addr: &str,
        index: u64,
        timeout_ms: u64,
    ) -> PyResult<u64> {
        let fetched = py.detach(|| self.node.fetch_snapshot(addr, index, ms(timeout_ms)));
        fetched.map_err(peer_error)
    }

    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (
        addr, content, size, chunk_bytes, wanted, path, timeout_ms, unfinished=false
    ))]
    fn fetch_chunks(
        &self,
        py: Python<'_>,
        addr: &str,
        content: &[u8],
        size: u64,
        chunk_bytes: u64,
        wanted: Vec<(u64, [u8; 32])>,
        path: PathBuf,
        timeout_ms: u64,
        unfinished: bool,
    ) -> PyResult<Vec<u64>> {
        let wanted = Wanted::new(content, size, chunk_bytes, wanted, unfinished)?;
        wanted.fetch(py, &self.node, addr, &path, ms(timeout_ms))
    }

    fn change(
        &self,
        py: Python<'_>,
        config: u64,
        members: Vec<Row>,
        timeout_ms: u64,
    ) -> PyResult<u64> {
        let members = members
            .into_iter()
            .map(|(id, name, raft, grpc, voter)| (id, Member { name, raft, grpc }, voter))
            .collect();
        let shared = &self.node.shared;
        let work = shared.change(config, members, ms(timeout_ms));
        match py.detach(|| self.node.block(work)) {
            Some(Ok(config)) => Ok(config),
            Some(Err(NotChanged::Surely(text))) => Err(EngineError::new_err(text)),
            Some(Err(NotChanged::MayBe(text))) => Err(PyTimeoutError::new_err(text)),
            None => Err(PyTimeoutError::new_err("the engine was closed meanwhile")),
        }
    }

    fn transfer_leader(&self, py: Python<'_>, node_id: u64, timeout_ms: u64) -> PyResult<()> {
        let shared = &self.node.shared;
        told(py.detach(|| {
            self.node
                .operate(shared.transfer_leader(node_id, ms(timeout_ms)))
        }))
    }

    fn snapshot(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<()> {
        let shared = &self.node.shared;
        let work = async {
            match tokio::time::timeout(ms(timeout_ms), shared.take_snapshot()).await {
                Ok(result) => result,
                Err(_) => Err(format!("no snapshot within {timeout_ms} ms; it goes on")),
            }
        };
        told(py.detach(|| self.node.operate(work)))
    }

    fn drain(&self, py: Python<'_>, timeout_ms: u64) {
        py.detach(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| self.door.drain(ms(timeout_ms)));
                self.node.step_aside(ms(timeout_ms));
            });
        });
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            self.node.let_go();
            self.door.close();
            self.node.close();
        });
    }
}

/// Adds Engine, its error and its constants to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add_class::<Engine>()?;
    m.add("EngineError", py.get_type::<EngineError>())?;
    m.add("WORK_ASK", WorkKind::Ask as u8)?;
    m.add("WORK_SNAPSHOT", WorkKind::Snapshot as u8)?;
    m.add("WORK_INSTALL", WorkKind::Install as u8)?;
    let options = PyDict::new(py);
    for (name, default) in Options::TABLE {
        options.set_item(name, default)?;
    }
    m.add("OPTIONS", options)
}

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    register(m)?;
    contents::register(m)?;
    lying::register(m)?;
    crate::records::seam::register(m)?;
    crate::mount::seam::register(m)
}
