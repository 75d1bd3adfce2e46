//! The functions for transactions.
use super::{Pieces, pieces};
use crate::records::entry;
use crate::records::file::File;
use crate::records::parts::{self, Parts, RegularPut, Rules};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

/// Key in `n`, revision to replace, bytes of content, their digest, and where the request begins
/// and ends in the entry.
type PartPut<'py> = (
    Bound<'py, PyBytes>,
    Option<u64>,
    usize,
    Bound<'py, PyBytes>,
    usize,
    usize,
);
#[pyfunction]
fn count_operations(body: &[u8], most: usize) -> usize {
    entry::count_operations(body, most)
}

#[pyfunction]
fn put_digests<'py>(
    py: Python<'py>,
    body: &[u8],
    data_bytes_max: usize,
    mode_max: u32,
    owner_max: u32,
) -> Option<Bound<'py, PyBytes>> {
    let rules = Rules::new(data_bytes_max, mode_max, owner_max);
    let digests = py.detach(|| parts::put_digests(body, &rules));
    digests.map(|digests| PyBytes::new(py, &digests))
}

type Split<'py> = (
    u64,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyBytes>,
    Vec<Bound<'py, PyTuple>>,
);

#[pyfunction]
fn split_transaction<'py>(
    py: Python<'py>,
    payload: &[u8],
    data_bytes_max: usize,
    mode_max: u32,
    owner_max: u32,
) -> PyResult<Option<Split<'py>>> {
    let rules = Rules::new(data_bytes_max, mode_max, owner_max);
    let Some(entry) = Parts::read(payload, &rules) else {
        return Ok(None);
    };
    let mut parts = Vec::with_capacity(entry.parts.len());
    for part in entry.parts {
        let sha256 = PyBytes::new(py, part.sha256);
        let Some(put) = part.put else {
            parts.push((PyBytes::new(py, part.encoded), sha256).into_pyobject(py)?);
            continue;
        };
        let begin = part.encoded.as_ptr().addr() - payload.as_ptr().addr();
        let part: PartPut = (
            PyBytes::new(py, &put.store_key()),
            put.base,
            put.data.len(),
            sha256,
            begin,
            begin + part.encoded.len(),
        );
        parts.push(part.into_pyobject(py)?);
    }
    Ok(Some((
        entry.time_ns,
        PyString::new(py, entry.node),
        PyString::new(py, entry.principal),
        PyBytes::new(py, entry.request_id),
        parts,
    )))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn pack_part<'py>(
    py: Python<'py>,
    payload: &[u8],
    put: PartPut<'py>,
    old: Option<&[u8]>,
    revision: u64,
    sub: u32,
    time_ns: u64,
    mode: u32,
    node: &str,
    principal: &str,
    request_id: &[u8],
    inline_bytes_max: usize,
) -> Option<Pieces<'py>> {
    let (store_key, _, _, sha256, begin, end) = put;
    let put = RegularPut::read(payload.get(begin..end)?, &Rules::NONE)?;
    let file = File {
        revision,
        sub,
        key: store_key.as_bytes(),
        time_ns,
        mode: put.mode.unwrap_or(mode),
        mtime_ns: put.mtime_ns.unwrap_or(time_ns as i64),
        node,
        principal,
        sha256: sha256.as_bytes(),
        request_id,
        tail: &put.tail(),
        data: put.data,
        inline: put.data.len() <= inline_bytes_max,
    };
    pieces(py, &file, old)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(count_operations, m)?)?;
    m.add_function(wrap_pyfunction!(put_digests, m)?)?;
    m.add_function(wrap_pyfunction!(split_transaction, m)?)?;
    m.add_function(wrap_pyfunction!(pack_part, m)?)
}
