//! The driver over real sockets. Every case runs over both backends.

mod support;

mod cancelling;
mod files;
mod limits;
mod moving;
mod streams;
mod waiting;
mod watches;
