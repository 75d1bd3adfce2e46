//! What Python sees of the mount; `src/dfs/_engine.pyi` is its documentation.
use super::change::Upsert;
use super::content::Digest;
use super::device;
use super::feed::{Entry, check_path, check_target, entries};
use super::node::Kind;
use super::part::Part;
use super::past::PAST;
use super::session::{Come, Options, Session};
use super::told::Shown;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// (path, kind, size, mode, mtime_ns, uid, gid, version, backing)
type Item = (String, u8, u64, u32, i64, u32, u32, u64, Option<String>);

/// (something was deleted, contents that no path shows any more, paths not shown and why)
type Outcome<'py> = (bool, Vec<Bound<'py, PyBytes>>, Vec<(String, &'static str)>);
/// What a watch brought, and up to which revision its events are old.
type Answer = (PyBackedBytes, u64);
/// (SHA-256, size, content if it came along)
type Content<'py> = (Bound<'py, PyBytes>, u64, Option<Bound<'py, PyBytes>>);
/// (path, kind, revision, size, SHA-256)
type Listed<'py> = (String, u8, u64, u64, Bound<'py, PyBytes>);

#[pyclass(frozen, name = "Tree", module = "dfs._engine")]
struct PyTree(Arc<Session>);

#[derive(FromPyObject)]
enum Fetched {
    Errno(i32),
    Place(String),
    Part(Py<PyPart>),
}

/// Of what `next_misses` gives.
type Miss = (u64, String, u64, u64, u64);

#[pyclass(frozen, name = "Part", module = "dfs._engine")]
struct PyPart(Arc<Part>);

#[pymethods]
impl PyPart {
    fn mark(&self, number: usize) -> PyResult<()> {
        if self.0.mark(number) {
            return Ok(());
        }
        Err(PyValueError::new_err(format!("there is no chunk {number}")))
    }

    fn used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

#[derive(FromPyObject)]
enum Answered {
    Errno(i32),
    Bytes(Vec<u8>),
}

#[pymethods]
impl PyTree {
    #[new]
    fn new(options: &Bound<'_, PyDict>) -> PyResult<PyTree> {
        let mut chosen = Options {
            passthrough: true,
            no_open: false,
            deadline: Duration::from_secs(30),
            ttl: Duration::from_secs(3_600),
            xattr: false,
            owners: true,
            uid: 0,
            gid: 0,
        };
        for (name, value) in options {
            let (name, value): (String, u32) = (name.extract()?, value.extract()?);
            match name.as_str() {
                "passthrough" => chosen.passthrough = value != 0,
                "no_open" => chosen.no_open = value != 0,
                "deadline_ms" => chosen.deadline = Duration::from_millis(value.into()),
                "ttl_ms" => chosen.ttl = Duration::from_millis(value.into()),
                "xattr" => chosen.xattr = value != 0,
                "owners" => chosen.owners = value != 0,
                "uid" => chosen.uid = value,
                "gid" => chosen.gid = value,
                _ => return Err(PyValueError::new_err(format!("unknown option {name:?}"))),
            }
        }
        Ok(PyTree(Session::new(chosen)))
    }

    fn contents<'py>(&self, py: Python<'py>, answers: Vec<Answer>) -> PyResult<Vec<Content<'py>>> {
        let found = py.detach(|| Ok::<_, PyErr>(self.0.contents(&told(&answers)?)))?;
        let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
        let found = found.into_iter();
        Ok(found
            .map(|(digest, size, data)| (bytes(&digest), size, data.map(bytes)))
            .collect())
    }

    fn show<'py>(
        &self,
        py: Python<'py>,
        answers: Vec<Answer>,
        places: Vec<(Digest, String)>,
        snapshot: bool,
    ) -> PyResult<Outcome<'py>> {
        let shown = py.detach(|| {
            let places = places
                .into_iter()
                .map(|(digest, place)| Ok((digest, c_string(&place)?)))
                .collect::<PyResult<_>>()?;
            Ok::<_, PyErr>(self.0.show(&told(&answers)?, places, snapshot))
        })?;
        Ok(outcome(py, shown))
    }

    fn begin_snapshot(&self, py: Python<'_>) {
        py.detach(|| self.0.begin_snapshot());
    }

    fn end_snapshot<'py>(&self, py: Python<'py>) -> Outcome<'py> {
        let shown = py.detach(|| self.0.end_snapshot());
        outcome(py, shown)
    }

    fn place_contents(
        &self,
        py: Python<'_>,
        places: Vec<(Digest, Option<String>)>,
    ) -> PyResult<usize> {
        py.detach(|| {
            let places = places
                .into_iter()
                .map(|(digest, place)| Ok((digest, place.map(|at| c_string(&at)).transpose()?)))
                .collect::<PyResult<_>>()?;
            Ok(self.0.place_contents(places))
        })
    }

    fn shows(&self, digest: Digest) -> bool {
        self.0.tree.read().shows(&digest)
    }

    fn committed(&self) -> u64 {
        self.0.tree.read().committed()
    }

    fn record<'py>(&self, py: Python<'py>, path: &str) -> Option<Bound<'py, PyBytes>> {
        let record = self.0.tree.read().record(path)?;
        Some(PyBytes::new(py, &record))
    }

    fn entries<'py>(
        &self,
        py: Python<'py>,
        top: &str,
        after: &str,
        max_items: usize,
        absent: bool,
    ) -> Vec<Listed<'py>> {
        let mut found = Vec::new();
        py.detach(|| {
            self.0.tree.read().walk(top, after, |path, node, revision| {
                let wanted = !absent || (node.kind == Kind::File && node.place.lock().is_none());
                if wanted {
                    let digest = node.place.digest;
                    found.push((path.to_owned(), node.kind, revision, node.size, digest));
                }
                found.len() < max_items
            });
        });
        let found = found.into_iter();
        found
            .map(|(path, kind, revision, size, digest)| {
                let digest = PyBytes::new(py, digest.as_ref().map_or(b"", |digest| &digest[..]));
                (path, kind as u8, revision, size, digest)
            })
            .collect()
    }

    #[pyo3(signature = (fd, table = -1))]
    fn serve(&self, py: Python<'_>, fd: RawFd, table: RawFd) -> PyResult<()> {
        let begun = py.detach(|| self.0.serve(fd, table_file(table)?));
        begun.map_err(|error| os_error(&error, "/dev/fuse"))
    }

    #[pyo3(signature = (fd, table = -1))]
    fn adopt(&self, py: Python<'_>, fd: RawFd, table: RawFd) -> PyResult<()> {
        let begun = py.detach(|| self.0.adopt(fd, table_file(table)?));
        begun.map_err(|error| os_error(&error, "/dev/fuse"))
    }

    fn next_misses(&self, py: Python<'_>, max_items: usize, timeout_ms: u64) -> Vec<Miss> {
        py.detach(|| {
            self.0
                .next_misses(max_items, Duration::from_millis(timeout_ms))
        })
    }

    fn fulfil(&self, py: Python<'_>, miss: u64, result: Fetched) -> PyResult<bool> {
        let result = match result {
            Fetched::Errno(errno) => Err(positive(errno)?),
            Fetched::Place(place) => Ok(Come::Whole(c_string(&place)?)),
            Fetched::Part(part) => Ok(Come::Part(part.get().0.clone())),
        };
        Ok(py.detach(|| self.0.fulfil(miss, result)))
    }

    #[staticmethod]
    fn part(
        path: String,
        version: u64,
        fd: RawFd,
        size: u64,
        chunk_bytes: u64,
    ) -> PyResult<PyPart> {
        let of = (path, version);
        let made = copy_of(fd).and_then(|file| Part::new(of, file, size, chunk_bytes));
        let part = made.map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(PyPart(Arc::new(part)))
    }

    fn offer(&self, py: Python<'_>, names: Vec<String>) -> PyResult<()> {
        let bad = names.iter().find(|name| {
            let rest = name.strip_prefix(PAST);
            let last = rest.and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
            last.contains('/') || check_path(last).is_err()
        });
        if let Some(name) = bad {
            return Err(bad_path(name, "is no name"));
        }
        py.detach(|| self.0.offer(&names));
        Ok(())
    }

    fn next_questions(
        &self,
        py: Python<'_>,
        max_items: usize,
        timeout_ms: u64,
    ) -> Vec<(u64, String, u64, String)> {
        py.detach(|| {
            self.0
                .next_questions(max_items, Duration::from_millis(timeout_ms))
        })
    }

    fn answer(&self, py: Python<'_>, question: u64, result: Answered) -> PyResult<bool> {
        let result = match result {
            Answered::Errno(errno) => Err(positive(errno)?),
            Answered::Bytes(bytes) => Ok(bytes),
        };
        Ok(py.detach(|| self.0.answer_question(question, result)))
    }

    fn fill(&self, py: Python<'_>, question: u64, entries: Vec<Item>) -> PyResult<bool> {
        py.detach(|| {
            let entries: Vec<Upsert> = entries.into_iter().map(upsert).collect::<PyResult<_>>()?;
            Ok(self.0.fill(question, &entries))
        })
    }

    fn set_free(&self, free_bytes: u64) {
        self.0.set_free(free_bytes);
    }

    fn flush(&self, py: Python<'_>, timeout_ms: u64) -> bool {
        py.detach(|| self.0.flush(Duration::from_millis(timeout_ms)))
    }

    fn set_live(&self, live: bool) {
        self.0.set_live(live);
    }

    fn opened<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let opened = py.detach(|| self.0.opened());
        opened
            .iter()
            .map(|digest| PyBytes::new(py, digest))
            .collect()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, value) in py.detach(|| self.0.stats()) {
            stats.set_item(name, value)?;
        }
        Ok(stats)
    }

    fn running(&self) -> bool {
        self.0.running()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// What several answers of a watch tell, in order.
fn told(answers: &[Answer]) -> PyResult<Vec<Entry<'_>>> {
    let mut all = Vec::new();
    for (answer, after) in answers {
        let entries = entries(answer, *after);
        all.extend(entries.map_err(|_| PyValueError::new_err("no answer of a watch"))?);
    }
    Ok(all)
}

fn outcome(py: Python<'_>, shown: Shown) -> Outcome<'_> {
    let left = shown.left.iter().map(|digest| PyBytes::new(py, digest));
    (shown.deleted, left.collect(), shown.refused)
}

fn upsert(item: Item) -> PyResult<Upsert> {
    let (path, kind, size, mode, mtime_ns, uid, gid, version, place) = item;
    check_path(&path).map_err(|why| bad_path(&path, why))?;
    let place = place.map(|place| c_string(&place)).transpose()?;
    let (kind, size) = match (kind, &place) {
        (0, _) => (Kind::File, size),
        (1, _) => (Kind::Directory, 0),
        (2, target) => {
            let bytes = target.as_ref().map_or(0, |target| target.count_bytes());
            check_target(bytes).map_err(|why| bad_path(&path, why))?;
            (Kind::Link, bytes as u64)
        }
        _ => return Err(bad_path(&path, "the kind is none of 0, 1 and 2")),
    };
    Ok(Upsert {
        path,
        kind,
        size,
        mode,
        mtime_ns,
        uid,
        gid,
        version,
        place,
        ..Upsert::default()
    })
}

fn positive(errno: i32) -> PyResult<i32> {
    if errno > 0 {
        Ok(errno)
    } else {
        Err(PyValueError::new_err(format!("errno {errno}")))
    }
}

fn bad_path(path: &str, why: &str) -> PyErr {
    PyValueError::new_err(format!("{path:?}: {why}"))
}

fn c_string(text: &str) -> PyResult<Arc<CStr>> {
    let string = CString::new(text).map_err(|_| bad_path(text, "has a NUL character"))?;
    Ok(string.into())
}

/// A copy of the descriptor of the table of open files; none for a negative number.
fn table_file(fd: RawFd) -> io::Result<Option<File>> {
    if fd < 0 {
        return Ok(None);
    }
    copy_of(fd).map(Some)
}

fn copy_of(fd: RawFd) -> io::Result<File> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: borrowed only for the call, which fails cleanly on a closed number.
    let copy = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    Ok(File::from(copy))
}

/// Names the path in an OSError, as Python's own functions do.
fn os_error(error: &io::Error, path: &str) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => {
            let text = error.to_string();
            let text = text
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned();
            PyOSError::new_err((errno, text, path.to_owned()))
        }
        None => PyOSError::new_err(format!("{path}: {error}")),
    }
}

#[pyfunction]
fn fuse_open() -> PyResult<RawFd> {
    device::open()
        .map(IntoRawFd::into_raw_fd)
        .map_err(|error| os_error(&error, "/dev/fuse"))
}

#[pyfunction]
#[pyo3(signature = (fd, mountpoint, options, source = "dfs"))]
fn fuse_mount(
    py: Python<'_>,
    fd: RawFd,
    mountpoint: &str,
    options: &str,
    source: &str,
) -> PyResult<()> {
    py.detach(|| device::mount(fd, mountpoint, source, options))
        .map_err(|error| os_error(&error, mountpoint))
}

#[pyfunction]
#[pyo3(signature = (mountpoint, force = false))]
fn fuse_unmount(py: Python<'_>, mountpoint: &str, force: bool) -> PyResult<()> {
    py.detach(|| device::unmount(mountpoint, force))
        .map_err(|error| os_error(&error, mountpoint))
}

#[pyfunction]
fn fuse_resend(py: Python<'_>, fd: RawFd) -> PyResult<()> {
    py.detach(|| device::Device::duplicate(fd)?.resend())
        .map_err(|error| os_error(&error, "/dev/fuse"))
}

/// Adds the mount's class and functions to the extension module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyTree>()?;
    m.add_class::<PyPart>()?;
    m.add_function(wrap_pyfunction!(fuse_open, m)?)?;
    m.add_function(wrap_pyfunction!(fuse_mount, m)?)?;
    m.add_function(wrap_pyfunction!(fuse_unmount, m)?)?;
    m.add_function(wrap_pyfunction!(fuse_resend, m)?)
}
