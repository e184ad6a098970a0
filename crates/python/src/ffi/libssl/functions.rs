//! Which functions of OpenSSL are called, and how they are found.
//!
//! They are those of the library that CPython's `_ssl` calls, looked up at run time: another copy of OpenSSL, or another version of
//! it, would not know what to do with an `SSL` that is not its own. So nothing is linked, and nothing is called where it is not sure
//! to be that library ([`Functions::find`]).

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::ptr;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An `SSL`: one end of a connection. Nobody but OpenSSL looks inside.
#[repr(C)]
pub(super) struct Ssl {
    _private: [u8; 0],
}

/// A `BIO`: where an `SSL` reads and writes what is encrypted.
#[repr(C)]
pub(super) struct Bio {
    _private: [u8; 0],
}

/// A `BIO_METHOD`: a kind of `BIO`.
#[repr(C)]
pub(super) struct BioMethod {
    _private: [u8; 0],
}

/// `CRYPTO_EX_new`: called when an object is made that can carry extra data.
pub(super) type ExNew =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, c_int, c_long, *mut c_void);

/// `CRYPTO_EX_free`: called when such an object is freed.
pub(super) type ExFree = ExNew;

/// The oldest version that is called, in OpenSSL's numbers: 3.0.0. (The numbers of LibreSSL, BoringSSL and AWS-LC, whose functions of the
/// same names differ, are below it.)
const OLDEST: c_ulong = 0x3000_0000;

/// Declares the functions once, with their types, and looks all of them up.
macro_rules! functions {
    ($($name:ident: $kind:ty = $symbol:literal;)*) => {
        /// Functions of OpenSSL. Their manual pages: <https://docs.openssl.org/3.0/man3/>.
        pub(super) struct Functions {
            $(pub(super) $name: $kind,)*
        }

        impl Functions {
            /// Looks up all of them, as [`symbol`] does.
            ///
            /// # Safety
            ///
            /// `library` is a handle of `dlopen()`, and what it leads to is OpenSSL, of version 3 or later, where the functions have the
            /// types that are declared here.
            unsafe fn look_up(library: *mut c_void) -> Option<Self> {
                // SAFETY: by the contract, a function of the type of its field.
                unsafe { Some(Self { $($name: std::mem::transmute::<*mut c_void, $kind>(symbol(library, $symbol)?),)* }) }
            }
        }
    };
}

functions! {
    ssl_read: unsafe extern "C" fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int = c"SSL_read_ex";
    ssl_write: unsafe extern "C" fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int = c"SSL_write_ex";
    ssl_get_error: unsafe extern "C" fn(*const Ssl, c_int) -> c_int = c"SSL_get_error";
    ssl_get_shutdown: unsafe extern "C" fn(*const Ssl) -> c_int = c"SSL_get_shutdown";
    ssl_pending: unsafe extern "C" fn(*const Ssl) -> c_int = c"SSL_pending";
    ssl_get_ex_data: unsafe extern "C" fn(*const Ssl, c_int) -> *mut c_void = c"SSL_get_ex_data";
    ssl_get_rbio: unsafe extern "C" fn(*const Ssl) -> *mut Bio = c"SSL_get_rbio";
    ssl_get_wbio: unsafe extern "C" fn(*const Ssl) -> *mut Bio = c"SSL_get_wbio";
    ssl_set_bio: unsafe extern "C" fn(*mut Ssl, *mut Bio, *mut Bio) = c"SSL_set_bio";
    bio_ctrl_pending: unsafe extern "C" fn(*mut Bio) -> usize = c"BIO_ctrl_pending";
    bio_new: unsafe extern "C" fn(*const BioMethod) -> *mut Bio = c"BIO_new";
    bio_get_data: unsafe extern "C" fn(*mut Bio) -> *mut c_void = c"BIO_get_data";
    bio_set_data: unsafe extern "C" fn(*mut Bio, *mut c_void) = c"BIO_set_data";
    bio_set_init: unsafe extern "C" fn(*mut Bio, c_int) = c"BIO_set_init";
    bio_set_flags: unsafe extern "C" fn(*mut Bio, c_int) = c"BIO_set_flags";
    bio_clear_flags: unsafe extern "C" fn(*mut Bio, c_int) = c"BIO_clear_flags";
    bio_get_new_index: unsafe extern "C" fn() -> c_int = c"BIO_get_new_index";
    bio_meth_new: unsafe extern "C" fn(c_int, *const c_char) -> *mut BioMethod = c"BIO_meth_new";
    bio_meth_set_read: unsafe extern "C" fn(
        *mut BioMethod,
        unsafe extern "C" fn(*mut Bio, *mut c_char, usize, *mut usize) -> c_int,
    ) -> c_int = c"BIO_meth_set_read_ex";
    bio_meth_set_write: unsafe extern "C" fn(
        *mut BioMethod,
        unsafe extern "C" fn(*mut Bio, *const c_char, usize, *mut usize) -> c_int,
    ) -> c_int = c"BIO_meth_set_write_ex";
    bio_meth_set_ctrl: unsafe extern "C" fn(
        *mut BioMethod,
        unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long,
    ) -> c_int = c"BIO_meth_set_ctrl";
    bio_meth_set_destroy:
        unsafe extern "C" fn(*mut BioMethod, unsafe extern "C" fn(*mut Bio) -> c_int) -> c_int = c"BIO_meth_set_destroy";
    err_peek_error: unsafe extern "C" fn() -> c_ulong = c"ERR_peek_error";
    err_clear_error: unsafe extern "C" fn() = c"ERR_clear_error";
    get_ex_new_index: unsafe extern "C" fn(
        c_int,
        c_long,
        *mut c_void,
        Option<ExNew>,
        *mut c_void,
        Option<ExFree>,
    ) -> c_int = c"CRYPTO_get_ex_new_index";
}

impl Functions {
    /// The functions of the library that `_ssl` calls, or `None` where that is not sure or they are not all there: it is linked
    /// statically and hides its symbols, it is no OpenSSL, it is older than OpenSSL 3, or there are two of them.
    pub(super) fn of_python(py: Python<'_>) -> Option<&'static Self> {
        static FOUND: PyOnceLock<Option<Functions>> = PyOnceLock::new();
        FOUND.get_or_init(py, || Self::find(py).ok().flatten()).as_ref()
    }

    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let module = py.import("_ssl")?;
        let version: c_ulong = module.getattr("OPENSSL_VERSION_NUMBER")?.extract()?;
        if version < OLDEST {
            return Ok(None);
        }
        // Of a module that is part of the interpreter: the interpreter itself.
        let file: Option<String> =
            module.getattr_opt(intern!(py, "__file__"))?.map(|file| file.extract()).transpose()?;
        let file = file.map(CString::new).transpose()?;
        let name = file.as_ref().map_or(ptr::null(), |file| file.as_ptr());
        // SAFETY: a file that is loaded already, so that no code of its runs, or NULL for the program. The handle is never closed: the module
        // is never unloaded either.
        let library = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if library.is_null() {
            return Ok(None);
        }
        // SAFETY: the function has this type in every OpenSSL since 1.1.0 (and in those libraries that claim to be one).
        let loaded = unsafe {
            let Some(symbol) = symbol(library, c"OpenSSL_version_num") else { return Ok(None) };
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_ulong>(symbol)()
        };
        if loaded != version {
            return Ok(None);
        }
        // SAFETY: what the handle leads to says that it is the OpenSSL that `_ssl` has asked for its version, 3 or later.
        Ok(unsafe { Self::look_up(library) })
    }
}

/// The address of what `library`, or a library that it was linked with, calls `name`. `None` if there is nothing, or if it is not
/// certain that `library` itself finds the same: what the program has loaded for all to see goes first (`LD_PRELOAD`, say).
fn symbol(library: *mut c_void, name: &std::ffi::CStr) -> Option<*mut c_void> {
    // SAFETY: a handle of `dlopen()` or the pseudo handle, and a string that ends with a zero byte.
    let (own, global) =
        unsafe { (libc::dlsym(library, name.as_ptr()), libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr())) };
    (!own.is_null() && (global.is_null() || global == own)).then_some(own)
}
