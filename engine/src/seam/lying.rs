//! For Python: the log of a node that does not run, and the begin of a cluster; see _engine.pyi.
use super::io_error;
use crate::raft::codec::{get_log_id, log_id_bytes, membership_bytes, put_payload};
use crate::raft::log::lying::LyingLog;
use crate::raft::types::*;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use pyo3::exceptions::PyBlockingIOError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Kind and length before the bytes of a payload.
const PAYLOAD_HEAD_BYTES: usize = 5;

type Found<'py> = (u64, u64, u64, u8, Bound<'py, PyBytes>);

/// See _engine.pyi.
#[pyclass(frozen)]
struct StoredLog {
    log: LyingLog,
    /// Held, where a node ever had it.
    lock: Mutex<Option<File>>,
}

/// Keeps nodes out of the directory, without writing to it.
fn held(dir: &Path) -> PyResult<Option<File>> {
    let file = match File::open(dir.join("lock")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error)?,
    };
    // SAFETY: flock on a descriptor that `file` keeps open; it touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let text = format!("another process uses {}", dir.display());
        return Err(PyBlockingIOError::new_err(text));
    }
    Ok(Some(file))
}

fn place(id: LogId) -> (u64, u64, u64) {
    (id.leader_id.term, id.leader_id.node_id, id.index)
}

#[pymethods]
impl StoredLog {
    #[new]
    fn open(py: Python<'_>, data_dir: &str) -> PyResult<StoredLog> {
        let dir = Path::new(data_dir);
        let lock = held(dir)?;
        let log = py
            .detach(|| LyingLog::read(&dir.join("log")))
            .map_err(io_error)?;
        let lock = Mutex::new(lock);
        Ok(StoredLog { log, lock })
    }

    fn close(&self) {
        self.lock.lock().take();
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let standing = &self.log.standing;
        let d = PyDict::new(py);
        let vote = standing.vote.map(|v| {
            let leader = v.leader_id;
            (leader.term, leader.node_id, v.committed)
        });
        d.set_item("vote", vote)?;
        d.set_item("last", standing.last.map(place))?;
        d.set_item("committed", standing.committed.map(place))?;
        d.set_item("purged", standing.purged.map(place))?;
        d.set_item("durable", standing.durable)?;
        d.set_item("entries", self.log.count())?;
        d.set_item("bytes", self.log.bytes)?;
        d.set_item("torn", self.log.torn)?;
        d.set_item("problems", &self.log.problems)?;
        Ok(d)
    }

    fn entries<'py>(
        &self,
        py: Python<'py>,
        start: u64,
        bytes_max: usize,
    ) -> PyResult<Vec<Found<'py>>> {
        let found = py
            .detach(|| self.log.entries(start, bytes_max))
            .map_err(io_error)?;
        let row = |entry: Entry| {
            let mut payload = BytesMut::new();
            put_payload(&mut payload, &entry.payload);
            let (term, node, index) = place(entry.log_id);
            let bytes = PyBytes::new(py, &payload[PAYLOAD_HEAD_BYTES..]);
            (index, term, node, payload[0], bytes)
        };
        Ok(found.into_iter().map(row).collect())
    }
}

#[pyfunction]
fn founding<'py>(
    py: Python<'py>,
    index: u64,
    node_id: u64,
    name: String,
    raft: String,
    grpc: String,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    // Before all that any leader of the new cluster writes: terms begin with 1.
    let leader_id = LeaderId {
        term: 0,
        node_id: 0,
    };
    let id = LogId { leader_id, index };
    let member = Member { name, raft, grpc };
    let membership = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, member)]));
    let membership = membership.map_err(|e| io_error(io::Error::other(e.to_string())))?;
    let stored = StoredMembership::new(Some(id), membership);
    Ok((
        PyBytes::new(py, &log_id_bytes(&id)),
        PyBytes::new(py, &membership_bytes(&stored)),
    ))
}

#[pyfunction]
fn is_founding(log_id: &[u8]) -> bool {
    get_log_id(&mut Bytes::copy_from_slice(log_id)).is_ok_and(|id| id.leader_id.term == 0)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<StoredLog>()?;
    m.add_function(wrap_pyfunction!(founding, m)?)?;
    m.add_function(wrap_pyfunction!(is_founding, m)?)
}
