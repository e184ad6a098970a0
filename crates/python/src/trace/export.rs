//! The record as Python objects: the columns that `whilst._trace` describes.

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::recorder::{Name, Recorder};
use super::ring::{Event, Kind, NONE};

/// Columns, by name.
struct Columns<'py> {
    columns: Vec<(&'static str, Vec<Bound<'py, PyAny>>)>,
}

/// A value of a column.
enum Value {
    Index(u32),
    Whole(i64),
    Time(Option<f64>),
}

impl<'py> Columns<'py> {
    fn new<const N: usize>(names: [&'static str; N]) -> Self {
        Self { columns: names.into_iter().map(|name| (name, Vec::new())).collect() }
    }

    fn push<const N: usize>(&mut self, py: Python<'py>, values: [Value; N]) -> PyResult<()> {
        for ((_, column), value) in self.columns.iter_mut().zip(values) {
            column.push(match value {
                Value::Index(NONE) | Value::Time(None) => (-1_i64).into_pyobject(py)?.into_any(),
                Value::Index(index) => index.into_pyobject(py)?.into_any(),
                Value::Whole(number) => number.into_pyobject(py)?.into_any(),
                Value::Time(Some(time)) if time.fract() == 0.0 => (time as i64).into_pyobject(py)?.into_any(),
                Value::Time(Some(time)) => time.into_pyobject(py)?.into_any(),
            });
        }
        Ok(())
    }

    fn column(&mut self, name: &str) -> Option<&mut Vec<Bound<'py, PyAny>>> {
        self.columns.iter_mut().find(|(known, _)| *known == name).map(|(_, column)| column)
    }

    fn into_dict(self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, column) in self.columns {
            dict.set_item(name, PyList::new(py, column)?)?;
        }
        Ok(dict)
    }
}

pub(super) fn record<'py>(py: Python<'py>, recorder: &Recorder, now: u64) -> PyResult<Bound<'py, PyDict>> {
    // Microseconds with one decimal, which is what floating point then prints.
    let time = |at: u64| Value::Time(Some((at.saturating_sub(recorder.begin) / 100) as f64 / 10.0));
    let places = &recorder.places;
    let mut strings: Vec<Box<str>> = places.strings.all.clone();
    let mut numbers: HashMap<Box<str>, u32> = HashMap::new();
    let mut string = |text: &str| {
        *numbers.entry(text.into()).or_insert_with(|| {
            strings.push(text.into());
            strings.len() as u32 - 1
        })
    };
    let kinds: Vec<u32> = Kind::ALL.iter().map(|(_, name)| string(name)).collect();

    let listed = recorder.tasks();
    let indices: HashMap<u32, u32> =
        listed.iter().enumerate().map(|(index, task)| (task.id, index as u32)).collect();
    let index = |id: u32| indices.get(&id).copied();
    let mut tasks = Columns::new([
        "id", "name", "coro", "place", "made_at", "parent", "begin", "end", "outcome", "error", "loop",
    ]);
    for task in &listed {
        let name = match &task.name {
            name if !name.is_known() => string("new task"),
            Name::Number(number) => string(&format!("Task-{number}")),
            Name::Text(text) => string(text),
        };
        let ended = task.outcome as i64 != 0;
        tasks.push(
            py,
            [
                Value::Index(task.id),
                Value::Index(name),
                Value::Index(task.coroutine),
                Value::Index(task.place),
                Value::Index(task.made_at),
                Value::Index(index(task.parent).unwrap_or(NONE)),
                time(task.begin),
                if ended { time(task.end) } else { Value::Time(None) },
                Value::Whole(task.outcome as i64),
                Value::Index(task.error),
                Value::Whole(i64::from(task.lane)),
            ],
        )?;
    }

    let mut steps: Vec<_> = recorder
        .ring
        .iter()
        .filter_map(|event| match *event {
            Event::Step { begin, end, task, kind, on, stack } => {
                Some((begin, end, index(task)?, kind.map(|kind| (kind, on, stack))))
            }
            _ => None,
        })
        .collect();
    steps.sort_by_key(|(begin, ..)| *begin);
    let mut runs = Columns::new(["task", "begin", "end"]);
    let mut waits = Columns::new(["task", "begin", "end", "kind", "on", "place", "stack"]);
    // Where in the column the end of each task's wait is, that goes on.
    let mut open: HashMap<u32, usize> = HashMap::new();
    let mut count = 0;
    for (begin, end, task, wait) in steps {
        if let Some(wait) = open.remove(&task)
            && let Some(column) = waits.column("end")
        {
            let mut one = Columns::new(["end"]);
            one.push(py, [time(begin)])?;
            column[wait] = one.columns.remove(0).1.remove(0);
        }
        runs.push(py, [Value::Index(task), time(begin), time(end)])?;
        if let Some((kind, on, stack)) = wait {
            let place = places.stacks.get(stack as usize).map_or(NONE, |stack| stack.own);
            waits.push(
                py,
                [
                    Value::Index(task),
                    time(end),
                    Value::Time(None),
                    Value::Index(kinds[kind as usize]),
                    Value::Index(index(on).unwrap_or(NONE)),
                    Value::Index(place),
                    Value::Index(stack),
                ],
            )?;
            open.insert(task, count);
            count += 1;
        }
    }

    let mut callbacks = Columns::new(["name", "place", "begin", "end", "loop"]);
    let mut polls = Columns::new(["begin", "end", "loop"]);
    let mut bytes = Columns::new(["transport", "at", "in", "out"]);
    let known = recorder.transports();
    let transport_indices: HashMap<u32, u32> =
        known.iter().enumerate().map(|(index, transport)| (transport.id, index as u32)).collect();
    for event in recorder.ring.iter() {
        match *event {
            Event::Step { .. } => {}
            Event::Callback { begin, end, name, place, lane } => callbacks.push(
                py,
                [
                    Value::Index(name),
                    Value::Index(place),
                    time(begin),
                    time(end),
                    Value::Whole(i64::from(lane)),
                ],
            )?,
            Event::Poll { begin, end, lane } => {
                polls.push(py, [time(begin), time(end), Value::Whole(i64::from(lane))])?;
            }
            Event::Bytes { at, transport, received, sent } => {
                if let Some(index) = transport_indices.get(&transport) {
                    let (received, sent) = (i64::from(received), i64::from(sent));
                    let row = [Value::Index(*index), time(at), Value::Whole(received), Value::Whole(sent)];
                    bytes.push(py, row)?;
                }
            }
        }
    }
    let mut transports = Columns::new(["kind", "peer", "begin", "end", "in", "out"]);
    for transport in &known {
        transports.push(
            py,
            [
                Value::Index(string(transport.kind)),
                Value::Index(string(&transport.peer)),
                time(transport.begin),
                transport.end.map_or(Value::Time(None), time),
                Value::Whole(transport.received.cast_signed()),
                Value::Whole(transport.sent.cast_signed()),
            ],
        )?;
    }
    let mut loops = Columns::new(["driver", "begin", "end", "polls", "busy"]);
    for lane in &recorder.lanes {
        loops.push(
            py,
            [
                Value::Index(string(lane.driver)),
                time(lane.begin),
                time(lane.end.max(lane.last)),
                Value::Whole(lane.polls.cast_signed()),
                Value::Whole((lane.busy / 1000).cast_signed()),
            ],
        )?;
    }

    let record = PyDict::new(py);
    let duration = now.saturating_sub(recorder.begin);
    let (busy, polled) =
        recorder.lanes.iter().fold((0, 0), |(busy, polled), lane| (busy + lane.busy, polled + lane.polled));
    record.set_item("duration", duration / 1000)?;
    record.set_item("threshold", recorder.threshold as f64 / 1000.0)?;
    record.set_item("dropped", recorder.ring.dropped)?;
    record.set_item("dropped_tasks", recorder.ended.dropped)?;
    let whole = (busy + polled) as f64;
    record.set_item("utilisation", if whole > 0.0 { busy as f64 / whole } else { 0.0 })?;
    record.set_item("polls", recorder.lanes.iter().map(|lane| lane.polls).sum::<u64>())?;
    let lines: Vec<_> = places.places.iter().map(|place| (place.file, place.line, place.function)).collect();
    record.set_item("places", lines)?;
    let stacks: Vec<&[u32]> = places.stacks.iter().map(|stack| &*stack.places).collect();
    record.set_item("stacks", stacks)?;
    record.set_item("strings", strings.iter().map(|text| &**text).collect::<Vec<_>>())?;
    for (name, columns) in [
        ("tasks", tasks),
        ("runs", runs),
        ("waits", waits),
        ("callbacks", callbacks),
        ("polls_at", polls),
        ("transports", transports),
        ("bytes", bytes),
        ("loops", loops),
    ] {
        record.set_item(name, columns.into_dict(py)?)?;
    }
    Ok(record)
}
