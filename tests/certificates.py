"""The certificates of the tests of TLS: CPython's own, which are installed with its test-suite.

`localhost` is signed by an authority for that name (`keycert3.pem`), `fakehostname` by the same one for another name
(`keycert4.pem`), and `allsans` for many, the addresses 127.0.0.1 and ::1 among them. `AUTHORITY` is the authority's certificate.
"""

import importlib.util
import ssl
from pathlib import Path

import pytest


def _folder() -> Path:
    """Where this Python has its test certificates: `test/certdata`, and `test` itself in early releases of 3.11."""
    found = importlib.util.find_spec("test")
    for parent in (found.submodule_search_locations if found is not None else None) or []:
        for folder in (Path(parent, "certdata"), Path(parent)):
            if (folder / "keycert3.pem").exists():
                return folder
    pytest.skip(
        "this Python was installed without its test-suite, where the certificates are",
        allow_module_level=True,
    )


FOLDER = _folder()

AUTHORITY = FOLDER / "pycacert.pem"
LOCALHOST = FOLDER / "keycert3.pem"
ELLIPTIC = FOLDER / "keycertecc.pem"
FAKEHOSTNAME = FOLDER / "keycert4.pem"
ALL_NAMES = FOLDER / "allsans.pem"


def server_context(certificate: Path = ALL_NAMES, *, client_certificates: bool = False) -> ssl.SSLContext:
    """A server's context, which asks its clients for certificates if told to, and then takes no client without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if client_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(AUTHORITY)
    return context


def client_context(certificate: Path | None = None) -> ssl.SSLContext:
    """A client's context, which checks the server's certificate and name, and has a certificate of its own if told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(AUTHORITY)
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context
