//! One turn of the hot thread: what `step` is given, in which order it counts, what it brings.
use crate::call::{Failure, Reply};
use crate::raft::answers::Changed;
use crate::raft::node::Node;
use crate::raft::queue::Taken;
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

fn bytes_of(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    Ok(Bytes::copy_from_slice(value.cast::<PyBytes>()?.as_bytes()))
}

pub fn failure_of(value: &Bound<'_, PyAny>) -> PyResult<Failure> {
    let t = value.cast::<PyTuple>()?;
    Ok(Failure {
        code: t.get_item(0)?.extract()?,
        message: t.get_item(1)?.extract()?,
        details: bytes_of(&t.get_item(2)?)?,
    })
}

pub fn reply_of(value: &Bound<'_, PyAny>) -> PyResult<Reply> {
    if value.is_instance_of::<PyBytes>() {
        return Ok(Ok(bytes_of(value)?));
    }
    Ok(Err(failure_of(value)?))
}

fn reply_to<'py>(py: Python<'py>, reply: &Reply) -> PyResult<Bound<'py, PyAny>> {
    match reply {
        Ok(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
        Err(f) => (f.code, &f.message, PyBytes::new(py, &f.details))
            .into_pyobject(py)
            .map(|t| t.into_any()),
    }
}

/// What `step` was given, as plain values.
#[derive(Default)]
pub struct Given {
    applied: Vec<(u64, Vec<Option<Reply>>)>,
    propose: Vec<(u64, Bytes)>,
    respond: Vec<(u64, Reply)>,
    changed: Vec<Changed>,
    keep: Vec<(u64, Bytes)>,
}

fn pair<'py>(item: &Bound<'py, PyAny>) -> PyResult<(u64, Bound<'py, PyAny>)> {
    let t = item.cast::<PyTuple>()?;
    Ok((t.get_item(0)?.extract()?, t.get_item(1)?))
}

fn changed_of(item: &Bound<'_, PyAny>) -> PyResult<Changed> {
    let t = item.cast::<PyTuple>()?;
    let answer = t.get_item(2)?;
    Ok(Changed {
        method: t.get_item(0)?.extract()?,
        body: bytes_of(&t.get_item(1)?)?,
        answer: if answer.is_none() {
            None
        } else {
            Some(bytes_of(&answer)?)
        },
    })
}

fn results_of(results: &Bound<'_, PyAny>) -> PyResult<Vec<Option<Reply>>> {
    let mut list = Vec::new();
    for result in results.try_iter()? {
        let result = result?;
        list.push(if result.is_none() {
            None
        } else {
            Some(reply_of(&result)?)
        });
    }
    Ok(list)
}

impl Given {
    pub fn new(
        applied: &Bound<'_, PyAny>,
        propose: &Bound<'_, PyAny>,
        respond: &Bound<'_, PyAny>,
        changed: &Bound<'_, PyAny>,
        keep: &Bound<'_, PyAny>,
    ) -> PyResult<Given> {
        let mut given = Given::default();
        for item in applied.try_iter()? {
            let (seq, results) = pair(&item?)?;
            given.applied.push((seq, results_of(&results)?));
        }
        for item in propose.try_iter()? {
            let (id, head) = pair(&item?)?;
            given.propose.push((id, bytes_of(&head)?));
        }
        for item in respond.try_iter()? {
            let (id, reply) = pair(&item?)?;
            given.respond.push((id, reply_of(&reply)?));
        }
        for item in changed.try_iter()? {
            given.changed.push(changed_of(&item?)?);
        }
        for item in keep.try_iter()? {
            let (id, answer) = pair(&item?)?;
            given.keep.push((id, bytes_of(&answer)?));
        }
        Ok(given)
    }

    /// The order is what keeps reads right, see `raft/answers.rs`; after that, what others wait
    /// for: Raft goes on with the next batch at once. `Err`: results that nobody asked for.
    pub fn hand_over(self, node: &Node) -> Result<(), String> {
        let queue = &node.shared.queue;
        queue.answers.change(self.changed);
        for (seq, results) in self.applied {
            let n = results.len();
            if !queue.applied(seq, results) {
                return Err(format!("{n} results for batch {seq}, which is not out"));
            }
        }
        for (id, head) in &self.propose {
            node.propose(*id, head);
        }
        for (id, reply) in self.respond {
            if let Some(guest) = queue.take_call(id) {
                (guest.call.answer)(reply);
            }
        }
        for (id, answer) in self.keep {
            queue.answer_and_keep(id, answer);
        }
        Ok(())
    }
}

/// What `step` brings, as plain values.
pub fn taken_to<'py>(py: Python<'py>, taken: &Taken) -> PyResult<Bound<'py, PyTuple>> {
    let calls = PyList::empty(py);
    for (id, method, body) in &taken.calls {
        calls.append((id, method, PyBytes::new(py, body)))?;
    }
    let batches = PyList::empty(py);
    for (seq, batch) in &taken.batches {
        let items = batch
            .items
            .iter()
            .map(|(i, p, wanted)| (i, PyBytes::new(py, p), wanted));
        let entries = PyList::new(py, items.collect::<Vec<_>>())?;
        let log_id = PyBytes::new(py, &batch.log_id);
        batches.append((seq, entries, log_id, PyBytes::new(py, &batch.membership)))?;
    }
    let done = PyList::empty(py);
    for (ticket, reply) in &taken.done {
        done.append((ticket, reply_to(py, reply)?))?;
    }
    let work = PyList::empty(py);
    for w in &taken.work {
        work.append((w.id, w.kind as u8, &w.text, PyBytes::new(py, &w.data)))?;
    }
    let flow = PyList::new(py, &taken.flow)?;
    (calls, batches, done, work, flow).into_pyobject(py)
}
