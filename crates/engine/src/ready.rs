//! The ready queue: what is to run, first in, first out.
