//! The arguments of a method called by `METH_FASTCALL | METH_KEYWORDS`.

use std::marker::PhantomData;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

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
    pub(crate) fn rest(&self, start: usize) -> &'a [*mut ffi::PyObject] {
        &self.values[start.min(self.positional)..self.positional]
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

    /// True if there are keyword arguments.
    #[inline]
    pub(crate) fn has_keywords(&self) -> bool {
        self.values.len() > self.positional
    }

    /// True if there are keyword arguments besides the one called `expected`.
    #[inline]
    pub(crate) fn has_other_keywords(&self, expected: &str) -> bool {
        match self.values.len() - self.positional {
            0 => false,
            1 => self.keywords().any(|(name, _)| name != expected),
            _ => true,
        }
    }

    #[inline]
    fn value(&self, index: usize) -> &'a Bound<'py, PyAny> {
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
            let were = if self.positional == 1 { "was" } else { "were" };
            let arguments = if N == 1 { "argument" } else { "arguments" };
            return Err(PyTypeError::new_err(format!(
                "{function}() takes {N} positional {arguments} but {} {were} given",
                self.positional
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
        if missing.is_empty() { Ok(taken) } else { Err(missing_arguments(function, &missing)) }
    }

    /// For a function of `parameters` and then any number of arguments: what comes of putting those parameters in their
    /// places that were given by keyword. None if there are none. Not for the common case, which `has_other_keywords` tells.
    ///
    /// Raises `TypeError` in CPython's words for a parameter that is given twice or missing.
    #[cold]
    pub(crate) fn place(&self, function: &str, parameters: &[&str]) -> PyResult<Option<Placed<'a, 'py>>> {
        let mut given = vec![None; parameters.len()];
        let mut names = Vec::new();
        let mut named = Vec::new();
        for (index, (name, value)) in self.keywords().enumerate() {
            match parameters.iter().position(|parameter| name == *parameter) {
                Some(place) if place < self.positional => {
                    return Err(PyTypeError::new_err(format!(
                        "{function}() got multiple values for argument '{name}'"
                    )));
                }
                Some(place) => given[place] = Some(value.as_ptr()),
                None => {
                    names.push(name);
                    named.push(self.values[self.positional + index]);
                }
            }
        }
        if given.iter().all(Option::is_none) {
            return Ok(None);
        }
        let missing: Vec<_> = (self.positional..parameters.len())
            .filter(|place| given[*place].is_none())
            .map(|place| parameters[place])
            .collect();
        if !missing.is_empty() {
            return Err(missing_arguments(function, &missing));
        }
        let mut values = self.values[..self.positional].to_vec();
        values.extend(given.into_iter().flatten());
        let positional = values.len();
        values.extend(named);
        Ok(Some(Placed {
            py: self.py,
            values,
            positional,
            names: PyTuple::new(self.py, names)?,
            of: PhantomData,
        }))
    }
}

/// Arguments with the parameters in their places that were given by keyword; see [`Arguments::place`].
pub(crate) struct Placed<'a, 'py> {
    py: Python<'py>,
    /// Borrowed from the arguments of the call.
    values: Vec<*mut ffi::PyObject>,
    positional: usize,
    names: Bound<'py, PyTuple>,
    of: PhantomData<&'a ()>,
}

impl<'py> Placed<'_, 'py> {
    /// As arguments again.
    pub(crate) fn arguments(&self) -> Arguments<'_, 'py> {
        Arguments {
            py: self.py,
            values: &self.values,
            positional: self.positional,
            names: Some(self.names.as_borrowed()),
        }
    }
}

/// `TypeError` for required arguments that were not given, at least one, in CPython's words.
#[cold]
pub(crate) fn missing_arguments(function: &str, names: &[&str]) -> PyErr {
    let count = names.len();
    let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    let list = match quoted.as_slice() {
        [first @ .., last] if first.len() > 1 => format!("{}, and {last}", first.join(", ")),
        _ => quoted.join(" and "),
    };
    let plural = if count == 1 { "" } else { "s" };
    PyTypeError::new_err(format!("{function}() missing {count} required positional argument{plural}: {list}"))
}
