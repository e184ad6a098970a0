//! Who is told when an operation of the driver completes.

use std::sync::Arc;

use pyo3::prelude::*;
use whilst_engine::driver::{Interest, Key};

use super::sendfile::Sendfile;
use super::servers::Acceptor;
use super::sockets::SocketWait;
use crate::ffi::class::Object;
use crate::file::Pending;
use crate::handle::Handle;
use crate::transport::datagram::Datagram;
use crate::transport::pipe::{ReadPipe, WritePipe};
use crate::transport::stream::Stream;

/// Who is told of a completion.
pub(crate) enum Source {
    /// A callback of `add_reader` or `add_writer`.
    Watch(Object<Handle>),
    /// A file on its way to a socket.
    Sendfile(Py<Sendfile>),
    /// A task's wait for a socket.
    Socket(Py<SocketWait>),
    /// A stream transport.
    Stream(Object<Stream>),
    /// A datagram transport, and what it waits for.
    Datagram(Object<Datagram>, Interest),
    /// A listening socket.
    Acceptor(Arc<Acceptor>),
    /// The reading end of a pipe, which waits for bytes.
    ReadPipe(Object<ReadPipe>),
    /// The writing end of a pipe, which waits for room (writable) or for the reader's hang-up (readable).
    WritePipe(Object<WritePipe>, Interest),
    /// Whoever waits for a file operation.
    File(Pending),
}

impl Source {
    fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        match self {
            Self::Watch(handle) => visit(handle.as_py()),
            Self::Sendfile(sendfile) => visit(sendfile.as_any()),
            Self::Socket(wait) => visit(wait.as_any()),
            Self::Stream(stream) => visit(stream.as_py()),
            Self::Datagram(transport, _) => visit(transport.as_py()),
            Self::Acceptor(acceptor) => acceptor.traverse(visit),
            Self::ReadPipe(pipe) => visit(pipe.as_py()),
            Self::WritePipe(pipe, _) => visit(pipe.as_py()),
            Self::File(pending) => pending.traverse(visit),
        }
    }
}

/// Sources by key. A key carries its slot's generation, so that a completion which comes after its source has gone finds
/// nothing, whoever has the slot by then.
#[derive(Default)]
pub(crate) struct Registry {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    source: Option<Source>,
}

impl Registry {
    pub(crate) fn insert(&mut self, source: Source) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer sources than descriptors")
        });
        let slot = &mut self.slots[index as usize];
        slot.source = Some(source);
        Key(u64::from(slot.generation) << 32 | u64::from(index))
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Source> {
        let slot = self.slots.get(key.0 as u32 as usize)?;
        if slot.generation == (key.0 >> 32) as u32 { slot.source.as_ref() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Source> {
        let index = key.0 as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != (key.0 >> 32) as u32 {
            return None;
        }
        let source = slot.source.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(source)
    }

    /// Empties the registry, keeping the generations.
    pub(crate) fn drain(&mut self) -> Vec<Source> {
        self.take_those(|_| true)
    }

    /// Takes out the sources that are `wanted`, keeping the generations.
    pub(crate) fn take_those(&mut self, wanted: impl Fn(&Source) -> bool) -> Vec<Source> {
        let mut sources = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(source) = slot.source.take_if(|source| wanted(source)) {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index as u32);
                sources.push(source);
            }
        }
        sources
    }

    pub(crate) fn traverse(&self, mut visit: impl FnMut(&Py<PyAny>)) {
        for source in self.slots.iter().filter_map(|slot| slot.source.as_ref()) {
            source.traverse(&mut visit);
        }
    }
}
