//! Names, lines of code and chains of them, each kept once.

use std::collections::HashMap;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCode, PyDict};

use super::numbers::NumberMap;
use super::ring::{Kind, NONE};
use crate::ffi::suspended::{Running, attribute, line};

/// Whose a piece of code is, as `whilst._owners` has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// Of the standard library, or of whilst.
    Python,
    /// Of an installed package.
    Package,
    /// The program's own.
    Program,
}

/// What is known of a code object.
pub(super) struct Code {
    /// Kept, lest another code get its address.
    _object: Py<PyAny>,
    file: u32,
    pub(super) name: u32,
    /// The place of its first line.
    pub(super) begin: u32,
    pub(super) owner: Owner,
    /// It calls all that the loop runs.
    pub(super) runs_the_loop: bool,
    /// A function of asyncio's or of another library that is about waiting.
    is_library: bool,
    /// What a task waits for that is in there.
    kind: Option<Kind>,
}

/// A line of code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) file: u32,
    pub(super) line: i32,
    pub(super) function: u32,
}

/// A chain of coroutines, outermost first.
pub(super) struct Stack {
    pub(super) places: Box<[u32]>,
    /// The innermost place of the program's own, or what comes nearest to it.
    pub(super) own: u32,
    pub(super) kind: Option<Kind>,
}

/// Strings by their number.
#[derive(Default)]
pub(super) struct Strings {
    pub(super) all: Vec<Box<str>>,
    known: HashMap<Box<str>, u32>,
}

impl Strings {
    pub(super) fn number(&mut self, string: &str) -> u32 {
        if let Some(number) = self.known.get(string) {
            return *number;
        }
        let number = self.all.len() as u32;
        self.all.push(string.into());
        self.known.insert(string.into(), number);
        number
    }
}

/// How a code is told from others, and where in it something is.
pub(super) type Point<'py> = (Bound<'py, PyCode>, i32);

/// What to classify code by.
pub(super) struct Libraries {
    /// What the files of whilst and of the interpreter begin with.
    pub(super) runtime: Vec<String>,
    /// What is somewhere in those of installed packages.
    pub(super) packages: Vec<String>,
    /// What the standard library's begin with.
    pub(super) stdlib: String,
    /// What the modules of libraries that know how to wait begin with.
    pub(super) waiting: Vec<String>,
    /// Kinds by module and function, or by what they begin with.
    pub(super) kinds: HashMap<String, Kind>,
}

impl Libraries {
    fn owner(&self, file: &str) -> Owner {
        if file.is_empty() || self.runtime.iter().any(|begin| file.starts_with(begin)) {
            Owner::Python
        } else if self.packages.iter().any(|folder| file.contains(folder)) {
            Owner::Package
        } else if file.starts_with(&self.stdlib) {
            Owner::Python
        } else {
            Owner::Program
        }
    }

    fn kind(&self, module: &str, function: &str) -> Option<Kind> {
        let full = format!("{module}.{function}");
        let mut name = full.as_str();
        loop {
            if let Some(kind) = self.kinds.get(name) {
                return Some(*kind);
            }
            name = &name[..name.rfind('.')?];
        }
    }
}

/// What is read of a code object before it is noted: reading makes strings.
pub(super) struct Description {
    object: Py<PyAny>,
    file: String,
    name: String,
    first_line: i32,
    module: String,
}

impl Description {
    pub(super) fn of(code: &Bound<'_, PyCode>, globals: Option<&Bound<'_, PyDict>>) -> Self {
        let py = code.py();
        let string = |value: Option<Bound<'_, PyAny>>| {
            value.and_then(|value| value.extract::<String>().ok()).unwrap_or_default()
        };
        let first_line = attribute(code, intern!(py, "co_firstlineno"))
            .and_then(|value| value.extract().ok())
            .unwrap_or_default();
        let module = globals.and_then(|globals| globals.get_item(intern!(py, "__name__")).ok().flatten());
        Self {
            object: code.clone().into_any().unbind(),
            file: string(attribute(code, intern!(py, "co_filename"))),
            name: string(attribute(code, intern!(py, "co_qualname"))),
            first_line,
            module: string(module),
        }
    }
}

/// What a frame on the way outwards from a task's making says about who makes it.
#[derive(Clone, Copy)]
pub(super) enum Maker {
    /// It is this line.
    Line(u32),
    /// It is this line of a package, if there is none of the program's further out.
    Package(u32),
    /// It is further out.
    Further,
    /// It is the loop: there is none.
    Loop,
}

/// All that is known of the program's code.
pub(super) struct Places {
    libraries: Libraries,
    pub(super) strings: Strings,
    pub(super) places: Vec<Place>,
    pub(super) stacks: Vec<Stack>,
    codes: NumberMap<usize, Code>,
    points: NumberMap<(usize, i32), u32>,
    known_places: NumberMap<Place, u32>,
    known_stacks: NumberMap<Box<[u32]>, u32>,
    makers: NumberMap<(usize, i32), Maker>,
    /// The same by the address of the instruction; of code that is known, and so is there as long as this.
    makers_running: NumberMap<(usize, usize), Maker>,
    /// How often a package's line has made tasks without a line of the program's above it.
    alone: NumberMap<u32, u8>,
    /// Reused from one chain to the next.
    chain: Vec<u32>,
}

/// So far a task's maker is looked for among what was seen before.
const NEAREST_MAKER: usize = 4;

/// So many stacks are kept: a recursion has a new one for each depth.
const MOST_STACKS: usize = 50_000;

impl Places {
    pub(super) fn new(libraries: Libraries) -> Self {
        Self {
            libraries,
            strings: Strings::default(),
            places: Vec::new(),
            stacks: Vec::new(),
            codes: NumberMap::default(),
            points: NumberMap::default(),
            known_places: NumberMap::default(),
            known_stacks: NumberMap::default(),
            makers: NumberMap::default(),
            makers_running: NumberMap::default(),
            alone: NumberMap::default(),
            chain: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn code(&self, code: &Bound<'_, PyCode>) -> Option<&Code> {
        self.codes.get(&code.as_ptr().addr())
    }

    /// Notes a code object. What was known of it comes back, to be dropped elsewhere.
    #[must_use]
    pub(super) fn add(&mut self, description: Description) -> Option<Code> {
        let Description { object, file, name, first_line, module } = description;
        let owner = self.libraries.owner(&file);
        let dotted = format!("{module}.");
        let is_library = self.libraries.waiting.iter().any(|library| dotted.starts_with(library.as_str()));
        let kind = if is_library { self.libraries.kind(&module, &name) } else { None };
        let runs_the_loop = owner == Owner::Python && name.ends_with("run_forever");
        let (file, name) = (self.strings.number(&file), self.strings.number(&name));
        let begin = self.place(Place { file, line: first_line, function: name });
        let key = object.as_ptr().addr();
        let code = Code { _object: object, file, name, begin, owner, runs_the_loop, is_library, kind };
        self.codes.insert(key, code)
    }

    fn place(&mut self, place: Place) -> u32 {
        *self.known_places.entry(place).or_insert_with(|| {
            self.places.push(place);
            self.places.len() as u32 - 1
        })
    }

    /// The place of a point in a code that is known.
    #[inline]
    pub(super) fn point(&mut self, (code, offset): &Point<'_>) -> u32 {
        let key = (code.as_ptr().addr(), *offset);
        if let Some(place) = self.points.get(&key) {
            return *place;
        }
        let Some(known) = self.codes.get(&key.0) else { return NONE };
        let (file, function) = (known.file, known.name);
        let line = line(code, *offset);
        let place = self.place(Place { file, line, function });
        self.points.insert(key, place);
        place
    }

    /// What a point says about who makes a task; `None` if its code is not known.
    #[inline]
    pub(super) fn maker(&mut self, point: &Point<'_>) -> Option<Maker> {
        match self.makers.get(&(point.0.as_ptr().addr(), point.1)) {
            Some(maker) => Some(*maker),
            None => self.new_maker(point),
        }
    }

    /// The line that makes a task, if all that it takes to say so was seen before.
    #[inline]
    pub(super) fn maker_running(&self, innermost: Running) -> Option<u32> {
        let mut frame = innermost;
        for _ in 0..NEAREST_MAKER {
            match self.makers_running.get(&frame.point())? {
                Maker::Line(place) => return Some(*place),
                Maker::Further => frame = frame.back()?,
                Maker::Package(_) | Maker::Loop => return None,
            }
        }
        None
    }

    /// Notes what a function that runs says of who makes a task.
    pub(super) fn note_running(&mut self, running: Running, maker: Maker) {
        self.makers_running.insert(running.point(), maker);
    }

    #[cold]
    fn new_maker(&mut self, point: &Point<'_>) -> Option<Maker> {
        let code = self.code(&point.0)?;
        let (owner, runs_the_loop) = (code.owner, code.runs_the_loop);
        let maker = match owner {
            _ if runs_the_loop => Maker::Loop,
            Owner::Python => Maker::Further,
            Owner::Package => Maker::Package(self.point(point)),
            Owner::Program => Maker::Line(self.point(point)),
        };
        self.makers.insert((point.0.as_ptr().addr(), point.1), maker);
        Some(maker)
    }

    /// Notes that a package's line has made a task without a line of the program's that has called it. One that does so often, for a
    /// server's callback say, is soon taken for the maker without looking further.
    #[cold]
    pub(super) fn note_alone(&mut self, place: u32) {
        let count = self.alone.entry(place).or_default();
        *count = count.saturating_add(1);
        if *count == u8::MAX {
            for maker in self.makers.values_mut().chain(self.makers_running.values_mut()) {
                if matches!(maker, Maker::Package(its) if *its == place) {
                    *maker = Maker::Line(place);
                }
            }
        }
    }

    /// The number of a chain, all of whose code is known. [`NONE`] of an empty one, and when there are too many.
    pub(super) fn stack(&mut self, points: &[Point<'_>]) -> u32 {
        if points.is_empty() {
            return NONE;
        }
        let mut chain = std::mem::take(&mut self.chain);
        chain.clear();
        for point in points {
            let place = self.point(point);
            chain.push(place);
        }
        let stack = match self.known_stacks.get(chain.as_slice()) {
            Some(stack) => *stack,
            None if self.stacks.len() >= MOST_STACKS => NONE,
            None => self.new_stack(&chain, points),
        };
        self.chain = chain;
        stack
    }

    #[cold]
    fn new_stack(&mut self, chain: &[u32], points: &[Point<'_>]) -> u32 {
        let number = self.stacks.len() as u32;
        let codes = || points.iter().map(|(code, _)| self.code(code).expect("described before"));
        // The innermost of those that are the program's own; where none is, of packages; else the outermost.
        let own = codes()
            .enumerate()
            .filter(|(_, code)| code.owner != Owner::Python)
            .max_by_key(|(index, code)| (code.owner, *index))
            .map_or(0, |(index, _)| index);
        // As `whilst._waits` has it: by the outermost function of the libraries' that the program has called, and those below it.
        let mut kind = None;
        for code in codes() {
            if !code.is_library {
                kind = None;
            } else if kind.is_none() {
                kind = code.kind;
            }
        }
        self.stacks.push(Stack { places: chain.into(), own: chain[own], kind });
        self.known_stacks.insert(chain.into(), number);
        number
    }
}
