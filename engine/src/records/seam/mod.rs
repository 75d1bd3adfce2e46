//! The functions of `records` for Python; see src/dfs/_engine.pyi.
mod parts;

use super::entry::{chained, plain_head, plain_put};
use super::events::{Answer, Change};
use super::file::{Current, Event, File, KIND_DIRECTORY, Packed, place_of};
use super::gets::{
    changed_answer, content_answer, content_key, get_answer, get_request, plain_get,
};
use super::lists::{Items, Taken, Wanted};
use super::{current_key, key_of};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyList};

/// The leader's time and the store key.
type Plain<'py> = (u64, Bound<'py, PyBytes>);
/// The number of a get, its store key, and the key of its content.
type Elsewhere<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyBytes>);
type Pieces<'py> = (
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Option<Bound<'py, PyBytes>>,
    u128,
    i64,
);

#[pyfunction]
#[pyo3(name = "plain_head")]
fn head<'py>(
    py: Python<'py>,
    body: &[u8],
    writer: &[u8],
    data_bytes_max: usize,
) -> Option<Bound<'py, PyBytes>> {
    plain_head(body, writer, data_bytes_max).map(|head| PyBytes::new(py, &head))
}

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
            let store_key = current_key(put.key.as_bytes());
            (put.time_ns, PyBytes::new(py, &store_key))
        }));
    }
    Ok(out)
}

#[pyfunction]
fn chain_entries<'py>(
    py: Python<'py>,
    chain: &[u8],
    entries: &Bound<'py, PyList>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut chain = chain.to_vec();
    let mut scratch = Vec::new();
    for entry in entries.iter() {
        let index = entry.get_item(0)?.extract()?;
        let payload = entry.get_item(1)?;
        let payload = payload.cast::<PyBytes>()?;
        chain = chained(&chain, index, payload.as_bytes(), &mut scratch).to_vec();
    }
    Ok(PyBytes::new(py, &chain))
}

/// `None`: what it would replace is damaged, or a directory.
fn pieces<'py>(py: Python<'py>, file: &File<'_>, old: Option<&[u8]>) -> Option<Pieces<'py>> {
    let old = match old {
        None => None,
        Some(value) => Some(Current::read(file.key, value).filter(|o| o.kind != KIND_DIRECTORY)?),
    };
    let Packed {
        current,
        history_key,
        history,
        index_key,
        hash_change,
        size_change,
    } = file.pack(old.as_ref());
    Some((
        PyBytes::new(py, &current),
        PyBytes::new(py, &history_key),
        PyBytes::new(py, &history),
        (!index_key.is_empty()).then(|| PyBytes::new(py, &index_key)),
        hash_change,
        size_change,
    ))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn pack_put<'py>(
    py: Python<'py>,
    payload: &[u8],
    store_key: &[u8],
    old: Option<&[u8]>,
    revision: u64,
    sub: u32,
    time_ns: u64,
    mode: u32,
    inline_bytes_max: usize,
) -> Option<Pieces<'py>> {
    let put = plain_put(payload, usize::MAX)?;
    let file = File {
        revision,
        sub,
        key: store_key,
        time_ns,
        mode,
        mtime_ns: time_ns as i64,
        node: put.node,
        principal: put.principal,
        sha256: put.sha256,
        request_id: b"",
        tail: b"",
        data: put.data,
        inline: put.data.len() <= inline_bytes_max,
    };
    pieces(py, &file, old)
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn pack_file<'py>(
    py: Python<'py>,
    store_key: &[u8],
    old: Option<&[u8]>,
    revision: u64,
    sub: u32,
    time_ns: u64,
    mode: u32,
    mtime_ns: i64,
    node: &str,
    principal: &str,
    sha256: &[u8],
    request_id: &[u8],
    tail: &[u8],
    data: &[u8],
    inline_bytes_max: usize,
) -> Option<Pieces<'py>> {
    let file = File {
        revision,
        sub,
        key: store_key,
        time_ns,
        mode,
        mtime_ns,
        node,
        principal,
        sha256,
        request_id,
        tail,
        data,
        inline: data.len() <= inline_bytes_max,
    };
    pieces(py, &file, old)
}

/// (number, store key) of those (number, request) that are plain.
#[pyfunction]
fn plain_gets<'py>(
    py: Python<'py>,
    requests: &Bound<'py, PyList>,
) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyBytes>)>> {
    let mut out = Vec::with_capacity(requests.len());
    for item in requests.iter() {
        let request = item.get_item(1)?;
        if let Some(key) = plain_get(request.cast::<PyBytes>()?.as_bytes()) {
            out.push((item.get_item(0)?, PyBytes::new(py, &key)));
        }
    }
    Ok(out)
}

type Renewed<'py> = (u32, Bound<'py, PyBytes>, Option<Bound<'py, PyBytes>>);

/// The plain gets of the keys whose events these are, and their answers now.
#[pyfunction]
fn changed_gets<'py>(
    py: Python<'py>,
    events: &Bound<'py, PyList>,
    method: u32,
    data_bytes_max: usize,
) -> PyResult<Vec<Renewed<'py>>> {
    let mut out = Vec::with_capacity(events.len());
    for event in events.iter() {
        let value = event.get_item(1)?;
        let Some(event) = Event::read(value.cast::<PyBytes>()?.as_bytes()) else {
            return Err(PyValueError::new_err("a record of history is cut short"));
        };
        let request = PyBytes::new(py, &get_request(&key_of(event.path)));
        let answer = changed_answer(&event, data_bytes_max);
        out.push((method, request, answer.map(|a| PyBytes::new(py, &a))));
    }
    Ok(out)
}

type Answered<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyBytes>)>;

/// (number, answer) of those (number, …) whose value is there and of which `answer` makes one.
fn answered<'py>(
    py: Python<'py>,
    gets: &Bound<'py, PyList>,
    values: &Bound<'py, PyList>,
    answer: impl Fn(&Bound<'py, PyAny>, &[u8]) -> PyResult<Option<Vec<u8>>>,
) -> PyResult<Answered<'py>> {
    let mut out = Vec::with_capacity(gets.len());
    for (item, value) in gets.iter().zip(values.iter()) {
        if value.is_none() {
            continue;
        }
        if let Some(answer) = answer(&item, value.cast::<PyBytes>()?.as_bytes())? {
            out.push((item.get_item(0)?, PyBytes::new(py, &answer)));
        }
    }
    Ok(out)
}

/// (number, answer) of those (number, store key) that are small files; their values in order.
#[pyfunction]
fn get_answers<'py>(
    py: Python<'py>,
    gets: &Bound<'py, PyList>,
    values: &Bound<'py, PyList>,
) -> PyResult<Answered<'py>> {
    answered(py, gets, values, |item, value| {
        let key = item.get_item(1)?;
        Ok(get_answer(key.cast::<PyBytes>()?.as_bytes(), value))
    })
}

type Listed<'py> = (
    Bound<'py, PyBytes>,
    usize,
    usize,
    usize,
    bool,
    Option<Bound<'py, PyBytes>>,
);

/// Items of the records from `at` on: see the stub.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn list_items<'py>(
    py: Python<'py>,
    records: &Bound<'py, PyList>,
    at: usize,
    recursive: bool,
    data_bytes_max: u64,
    data_after: u64,
    items_max: usize,
    bytes_max: usize,
    first: bool,
) -> PyResult<Listed<'py>> {
    let mut items = Items::new(Wanted {
        recursive,
        data_bytes_max,
        data_after,
        items_max,
        bytes_max,
        first,
    });
    let mut beyond = None;
    let mut unusual = false;
    let mut next = at;
    while next < records.len() {
        let record = records.get_item(next)?;
        let (key, value) = (record.get_item(0)?, record.get_item(1)?);
        let (key, value) = (key.cast::<PyBytes>()?, value.cast::<PyBytes>()?);
        let taken = items.push(key.as_bytes(), value.as_bytes());
        if taken != Taken::Yes {
            unusual = taken == Taken::Unusual;
            break;
        }
        next += 1;
        if next == records.len() {
            beyond = items.beyond(key.as_bytes());
        }
    }
    Ok((
        PyBytes::new(py, &items.encoded),
        next,
        items.count(),
        items.bytes,
        unusual,
        beyond.map(|key| PyBytes::new(py, &key)),
    ))
}

#[pyfunction]
fn content_keys<'py>(
    py: Python<'py>,
    gets: &Bound<'py, PyList>,
    values: &Bound<'py, PyList>,
    data_bytes_max: usize,
) -> PyResult<Vec<Elsewhere<'py>>> {
    let mut out = Vec::new();
    for (item, value) in gets.iter().zip(values.iter()) {
        if value.is_none() {
            continue;
        }
        let key = item.get_item(1)?;
        let (bytes, value) = (key.cast::<PyBytes>()?.as_bytes(), value.cast::<PyBytes>()?);
        if let Some(place) = content_key(bytes, value.as_bytes(), data_bytes_max) {
            let place = PyBytes::new(py, &place);
            out.push((item.get_item(0)?, key, place));
        }
    }
    Ok(out)
}

#[pyfunction]
fn content_answers<'py>(
    py: Python<'py>,
    gets: &Bound<'py, PyList>,
    values: &Bound<'py, PyList>,
) -> PyResult<Answered<'py>> {
    answered(py, gets, values, |item, value| {
        let (key, place) = (item.get_item(1)?, item.get_item(2)?);
        let (key, place) = (key.cast::<PyBytes>()?, place.cast::<PyBytes>()?);
        Ok(content_answer(key.as_bytes(), place.as_bytes(), value))
    })
}

fn written<'py>(py: Python<'py>, answer: &Answer<'_>) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, answer.bytes(), |out| {
        answer.write(out);
        Ok(())
    })
}

/// Records of history as the events of an answer: see the stub.
#[pyfunction]
fn encode_stored<'py>(
    py: Python<'py>,
    number: u64,
    events: Vec<(PyBackedBytes, PyBackedBytes)>,
    data_bytes_max: u64,
    mut bytes_max: u64,
    rest: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let mut answer = Answer::default();
    for (key, value) in &events {
        let (Some((revision, sub)), Some(event)) = (place_of(key), Event::read(value)) else {
            return Err(PyValueError::new_err("a record of history is cut short"));
        };
        let change = Change {
            revision,
            sub,
            deleted: event.deleted,
            path: event.path,
            record: event.record,
            previous: event.previous,
        };
        let most = data_bytes_max.min(bytes_max);
        let fits = |content: &&[u8]| most > 0 && content.len() as u64 <= most;
        let content = event.content().filter(fits);
        bytes_max -= content.map_or(0, |c| c.len() as u64);
        answer.put_event(number, &change, content);
    }
    answer.put(rest);
    written(py, &answer)
}

/// (revision, sub, deleted, key, record, content, previous)
type Changed<'py> = (
    u64,
    u32,
    bool,
    PyBackedStr,
    PyBackedBytes,
    Bound<'py, PyAny>,
    u64,
);

/// Changes as the events of an answer, without content: see the stub.
#[pyfunction]
fn encode_events<'py>(
    py: Python<'py>,
    number: u64,
    changes: Vec<Changed<'py>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut answer = Answer::default();
    for (revision, sub, deleted, key, record, _, previous) in &changes {
        let change = Change {
            revision: *revision,
            sub: *sub,
            deleted: *deleted,
            path: key.as_bytes(),
            record,
            previous: *previous,
        };
        answer.put_event(number, &change, None);
    }
    written(py, &answer)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    parts::register(m)?;
    m.add_function(wrap_pyfunction!(head, m)?)?;
    m.add_function(wrap_pyfunction!(plain_puts, m)?)?;
    m.add_function(wrap_pyfunction!(chain_entries, m)?)?;
    m.add_function(wrap_pyfunction!(pack_put, m)?)?;
    m.add_function(wrap_pyfunction!(plain_gets, m)?)?;
    m.add_function(wrap_pyfunction!(changed_gets, m)?)?;
    m.add_function(wrap_pyfunction!(get_answers, m)?)?;
    m.add_function(wrap_pyfunction!(list_items, m)?)?;
    m.add_function(wrap_pyfunction!(content_keys, m)?)?;
    m.add_function(wrap_pyfunction!(content_answers, m)?)?;
    m.add_function(wrap_pyfunction!(encode_stored, m)?)?;
    m.add_function(wrap_pyfunction!(encode_events, m)?)?;
    m.add_function(wrap_pyfunction!(pack_file, m)?)
}
