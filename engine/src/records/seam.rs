//! `plain_puts` and `pack_file` for Python; see src/dfs/_engine.pyi.
use super::{File, path_of, plain_put};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

type Plain<'py> = (
    u64,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyBytes>,
    Bound<'py, PyString>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
);
type Pieces<'py> = (
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
);

#[pyfunction]
fn plain_puts<'py>(
    py: Python<'py>,
    entries: &Bound<'py, PyList>,
    data_bytes_max: usize,
) -> PyResult<Vec<Option<Plain<'py>>>> {
    let mut out = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let payload = entry.get_item(1)?;
        let payload = payload.cast::<PyBytes>()?;
        out.push(plain_put(payload.as_bytes(), data_bytes_max).map(|put| {
            (
                put.time_ns,
                PyString::new(py, put.node),
                PyString::new(py, put.principal),
                PyBytes::new(py, put.sha256),
                PyString::new(py, put.key),
                PyBytes::new(py, &path_of(put.key)),
                PyBytes::new(py, put.data),
            )
        }));
    }
    Ok(out)
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn pack_file<'py>(
    py: Python<'py>,
    revision: u64,
    sub: u32,
    path: &[u8],
    created: u64,
    number: u64,
    previous: u64,
    previous_sub: u32,
    time_ns: u64,
    mode: u32,
    mtime_ns: i64,
    node: &str,
    principal: &str,
    sha256: &[u8],
    request_id: &[u8],
    data: &[u8],
    inline: bool,
) -> Pieces<'py> {
    let file = File {
        revision,
        sub,
        path,
        created,
        number,
        previous,
        previous_sub,
        time_ns,
        mode,
        mtime_ns,
        node,
        principal,
        sha256,
        request_id,
        data,
        inline,
    };
    let packed = file.pack();
    let bytes = |b: &[u8]| PyBytes::new(py, b);
    (
        bytes(&packed.current_key),
        bytes(&packed.current),
        bytes(&packed.history_key),
        bytes(&packed.history),
        bytes(&packed.index_key),
        bytes(&packed.record),
        bytes(&packed.digest),
    )
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(plain_puts, m)?)?;
    m.add_function(wrap_pyfunction!(pack_file, m)?)
}
