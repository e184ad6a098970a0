//! The arguments of a method called by `METH_FASTCALL | METH_KEYWORDS`.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

/// The name of a keyword argument that is mostly given alone, and is to be recognised without a look at its characters.
pub(crate) struct Keyword {
    text: &'static str,
    /// The name as code has it in which the call is written out.
    interned: PyOnceLock<Py<PyString>>,
    /// The names of a call that has not that object: CPython's tasks make a tuple of their own, once.
    names: PyOnceLock<Py<PyTuple>>,
}

impl Keyword {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self { text, interned: PyOnceLock::new(), names: PyOnceLock::new() }
    }

    /// True if the one element of `names` is the name.
    #[inline]
    fn is_only_name(&self, names: &Bound<'_, PyTuple>) -> bool {
        let py = names.py();
        if self.names.get(py).is_some_and(|known| known.is(names)) {
            return true;
        }
        let interned = self.interned.get_or_init(py, || PyString::intern(py, self.text).unbind());
        // SAFETY: by what `only` has checked there is one value behind the positional ones, and so one name.
        let name = unsafe { ffi::PyTuple_GET_ITEM(names.as_ptr(), 0) };
        name == interned.as_ptr() || self.is_written(names)
    }

    #[cold]
    fn is_written(&self, names: &Bound<'_, PyTuple>) -> bool {
        let same =
            names.get_item(0).is_ok_and(|name| name.extract::<&str>().is_ok_and(|name| name == self.text));
        if same {
            // The first such tuple. Others are recognised here, again and again.
            let _ = self.names.set(names.py(), names.clone().unbind());
        }
        same
    }
}

/// Positional and keyword arguments, borrowed for the length of a call.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a, 'py> {
    py: Python<'py>,
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    names: Option<pyo3::Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// # Safety
    ///
    /// What CPython gives a `METH_FASTCALL | METH_KEYWORDS` function: `values` holds `count` positional arguments and then
    /// one for each name in `names` (a tuple of strings or NULL), all alive during `'a`.
    #[inline]
    pub(crate) unsafe fn new(
        py: Python<'py>,
        values: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Self {
        let positional = count.cast_unsigned();
        // SAFETY: by the contract above.
        unsafe {
            let names =
                pyo3::Borrowed::from_ptr_or_opt(py, names).map(|names| names.cast_unchecked::<PyTuple>());
            let named = names.map_or(0, |names| ffi::PyTuple_GET_SIZE(names.as_ptr()).cast_unsigned());
            let values = if positional + named == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(values, positional + named)
            };
            Self { py, values, positional, names }
        }
    }

    /// How many positional arguments there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.positional
    }

    /// The positional argument at `index`.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&'a Bound<'py, PyAny>> {
        if index < self.positional { Some(self.value(index)) } else { None }
    }

    /// The positional arguments from `start` on.
    #[inline]
    pub(crate) fn rest(self, start: usize) -> impl ExactSizeIterator<Item = &'a Bound<'py, PyAny>>
    where
        'py: 'a,
    {
        (start.min(self.positional)..self.positional).map(move |index| self.value(index))
    }

    /// The keyword arguments by name.
    pub(crate) fn keywords(self) -> impl Iterator<Item = (Bound<'py, PyString>, &'a Bound<'py, PyAny>)>
    where
        'py: 'a,
    {
        (self.positional..self.values.len()).map(move |index| {
            let name = self
                .names
                .expect("CPython gives names with keyword arguments")
                .get_item(index - self.positional)
                .expect("as many names as keyword arguments");
            // SAFETY: CPython only ever puts strings there.
            (unsafe { name.cast_into_unchecked() }, self.value(index))
        })
    }

    /// The keyword argument, if there is one, no other, and it is this one.
    #[inline]
    pub(crate) fn only(&self, keyword: &Keyword) -> Option<&'a Bound<'py, PyAny>> {
        let names = self.names.filter(|_| self.values.len() == self.positional + 1)?;
        (keyword.is_only_name(&names)).then(|| self.value(self.positional))
    }

    /// True if there are keyword arguments.
    #[inline]
    pub(crate) fn has_keywords(&self) -> bool {
        self.values.len() > self.positional
    }

    #[inline]
    fn value(self, index: usize) -> &'a Bound<'py, PyAny> {
        // SAFETY: a valid reference during 'a; `Bound` is a transparent pointer, so a place holding one is one.
        unsafe { Bound::ref_from_ptr(self.py, &self.values[index]) }
    }

    /// Takes exactly `N` parameters, by position or keyword, the first `required` of which must be given.
    ///
    /// Raises `TypeError` in CPython's words otherwise.
    pub(crate) fn take<const N: usize>(
        &self,
        function: &str,
        parameters: [&str; N],
        required: usize,
    ) -> PyResult<[Option<&'a Bound<'py, PyAny>>; N]> {
        let mut taken = [None; N];
        if self.positional > N {
            // CPython counts `self`, as in a method that is written in Python.
            let range = if required < N { format!("from {} to ", required + 1) } else { String::new() };
            let arguments = if N == 0 { "argument" } else { "arguments" };
            return Err(PyTypeError::new_err(format!(
                "{function}() takes {range}{} positional {arguments} but {} were given",
                N + 1,
                self.positional + 1
            )));
        }
        for (index, place) in taken.iter_mut().enumerate() {
            *place = self.get(index);
        }
        for (name, value) in self.keywords() {
            let name = name.to_str()?;
            let Some(index) = parameters.iter().position(|parameter| *parameter == name) else {
                return Err(PyTypeError::new_err(format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                )));
            };
            if taken[index].replace(value).is_some() {
                return Err(PyTypeError::new_err(format!(
                    "{function}() got multiple values for argument '{name}'"
                )));
            }
        }
        let missing: Vec<_> =
            (0..required).filter(|index| taken[*index].is_none()).map(|index| parameters[index]).collect();
        match missing.as_slice() {
            [] => Ok(taken),
            [name] => Err(PyTypeError::new_err(format!(
                "{function}() missing 1 required positional argument: '{name}'"
            ))),
            [first @ .., last] => {
                let comma = if first.len() > 1 { "," } else { "" };
                let first = first.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
                Err(PyTypeError::new_err(format!(
                    "{function}() missing {} required positional arguments: {first}{comma} and '{last}'",
                    missing.len()
                )))
            }
        }
    }
}
