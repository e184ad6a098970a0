//! What the state machine asks of whoever does the cryptography, and nothing more.
//!
//! An engine is one end of one TLS connection, without I/O: it is [fed](Engine::feed) what the peer has sent, and what is to go to
//! the peer is [taken out of it](Engine::take_unsent). There are two, both of an `ssl.SSLObject`: one calls libssl on what is inside of it
//! ([`super::libssl`]), the other its methods ([`super::memory_bio`]).
//!
//! All methods may run Python code (an `sni_callback`, say), which may do anything to the transport, so none is called from inside of
//! a `Guarded`. Called out of such code, in the middle of another call, they do nothing, and say that they need more from the peer. They raise what the `ssl` module raises; that an operation needs more from the peer is no error here but an answer.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::class::Visitor;

/// How far an operation has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// It needs more from the peer: it is to be called again once the engine was fed.
    Again,
}

/// Why reading has stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is no more room; there may be more to read.
    Full,
    /// There is no more to read until the engine is fed.
    Again,
    /// The peer has said that it sends no more (`close_notify`).
    Closed,
}

/// One end of a TLS connection.
pub(crate) trait Engine: Send + Sync {
    /// Its name, as `WHILST_TLS_ENGINE` spells it.
    fn name(&self) -> &'static str;

    /// Goes on with the handshake.
    fn handshake(&self, py: Python<'_>) -> PyResult<Progress>;

    /// False if there is surely nothing to read.
    fn may_read(&self, py: Python<'_>) -> PyResult<bool>;

    /// Decrypts all there is: what it was fed, and behind that `received`, of which it keeps what it does not look at. It makes one
    /// `bytes` object (`None`: there was nothing), and says why it stopped.
    fn read<'py>(&self, py: Python<'py>, received: &[&[u8]])
    -> PyResult<(Option<Bound<'py, PyBytes>>, Stop)>;

    /// Decrypts into the memory behind `buffer`, a writable buffer that is not empty, until that is full or there is no more. Returns
    /// how many bytes it were, and why it stopped.
    fn read_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, Stop)>;

    /// Encrypts `data` from the byte `start` on. Returns how many bytes were taken; fewer than there are if the connection wants
    /// something from the peer first, and then the rest is to be given again.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyBytes>, start: usize) -> PyResult<usize>;

    /// Says `close_notify` and waits for the peer's.
    fn shut_down(&self, py: Python<'_>) -> PyResult<Progress>;

    /// Takes what the peer has sent.
    fn feed(&self, py: Python<'_>, received: &[u8]) -> PyResult<()>;

    /// How many bytes it was fed and has not looked at.
    fn unread(&self, py: Python<'_>) -> PyResult<usize>;

    /// How many bytes wait to be sent to the peer.
    fn unsent(&self, py: Python<'_>) -> PyResult<usize>;

    /// Takes out what is to be sent to the peer next, of which there may be more; `None` if there is nothing.
    fn take_unsent<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>>;

    /// The `ssl.SSLObject`, for who wants to know about the connection.
    fn ssl_object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny>;

    /// Shows the garbage collector what is referred to.
    fn traverse(&self, visitor: &mut Visitor);
}
