//! For Python: chunks of contents from other members, copies and digests; see _engine.pyi.
use super::peer_error;
use crate::contents::{self, Digest, Layout, copy, small};
use crate::raft::chunks::fetch::{self, Fault};
use crate::raft::chunks::{CHUNKS_WANTED_MAX, Order, TRANSFERS_MAX};
use crate::raft::node::Node;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What went wrong with a file of here.
fn file_error(e: &io::Error, path: Option<&Path>) -> PyErr {
    let text = e.to_string();
    match e.raw_os_error() {
        None if e.kind() == io::ErrorKind::InvalidInput => PyValueError::new_err(text),
        None => PyOSError::new_err(text),
        Some(code) => {
            let plain = text.split(" (os error").next().unwrap_or(&text).to_string();
            match path {
                Some(path) => PyOSError::new_err((code, plain, path.display().to_string())),
                None => PyOSError::new_err((code, plain)),
            }
        }
    }
}

/// A descriptor of Python's, for as long as it is used here: Python may close its own.
fn file_of(fd: RawFd) -> PyResult<File> {
    // SAFETY: fcntl copies a descriptor, if it is one; it touches no memory.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(file_error(&io::Error::last_os_error(), None));
    }
    // SAFETY: the descriptor was made here and belongs to nobody else.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(copy) }))
}

/// What `Engine.fetch_chunks` is asked for.
pub struct Wanted {
    order: Order,
    digests: Vec<Digest>,
}

impl Wanted {
    pub fn new(
        content: &[u8],
        size: u64,
        chunk_bytes: u64,
        wanted: Vec<(u64, Digest)>,
        unfinished: bool,
    ) -> PyResult<Wanted> {
        let refused = |e: io::Error| PyValueError::new_err(e.to_string());
        let content: Digest = content
            .try_into()
            .map_err(|_| PyValueError::new_err("a content is named by 32 bytes"))?;
        let layout = Layout::new(size, chunk_bytes).map_err(refused)?;
        let (numbers, digests) = wanted.into_iter().unzip();
        let order = Order::new(content, layout, numbers).map_err(refused)?;
        let order = order.of_unfinished(unfinished);
        Ok(Wanted { order, digests })
    }

    pub fn fetch(
        &self,
        py: Python<'_>,
        node: &Node,
        addr: &str,
        path: &Path,
        limit: Duration,
    ) -> PyResult<Vec<u64>> {
        let fetched =
            py.detach(|| fetch::fetch(node, addr, &self.order, &self.digests, path, limit));
        fetched.map_err(|fault| match fault {
            Fault::Peer(e) => peer_error(e),
            Fault::Disk(e) => file_error(&e, Some(path)),
        })
    }
}

#[pyfunction]
fn copy_and_hash<'py>(
    py: Python<'py>,
    source: RawFd,
    target: RawFd,
    chunk_bytes: u64,
) -> PyResult<(u64, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (source, target) = (file_of(source)?, file_of(target)?);
    let copied = py
        .detach(|| copy::copy(&source, &target, chunk_bytes))
        .map_err(|e| file_error(&e, None))?;
    let chunks = PyBytes::new(py, &copied.chunks);
    Ok((copied.size, PyBytes::new(py, &copied.sha256), chunks))
}

#[pyfunction]
fn digest_chunks<'py>(
    py: Python<'py>,
    fd: RawFd,
    size: u64,
    chunk_bytes: u64,
    numbers: Vec<u64>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let file = file_of(fd)?;
    let digests = py.detach(|| {
        let layout = Layout::new(size, chunk_bytes)?;
        contents::digests(&file, layout, &numbers)
    });
    let digests = digests.map_err(|e| file_error(&e, None))?;
    Ok(digests.iter().map(|d| PyBytes::new(py, d)).collect())
}

#[pyfunction]
fn store_objects(
    py: Python<'_>,
    root: PathBuf,
    contents: Vec<(PyBackedBytes, PyBackedBytes)>,
) -> Vec<bool> {
    let contents: Vec<(&[u8], &[u8])> = contents.iter().map(|(d, data)| (&**d, &**data)).collect();
    py.detach(|| small::store(&root, &contents))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("CHUNKS_WANTED_MAX", CHUNKS_WANTED_MAX)?;
    m.add("TRANSFERS_MAX", TRANSFERS_MAX)?;
    m.add_function(wrap_pyfunction!(copy_and_hash, m)?)?;
    m.add_function(wrap_pyfunction!(digest_chunks, m)?)?;
    m.add_function(wrap_pyfunction!(store_objects, m)?)
}
