"""PostgreSQL and Redis from Debian's packages, started for the tests in a folder and on ports of their own.

Nothing that the packages have set up is touched: no cluster of PostgreSQL's under /var, no configuration under /etc. Where a
package is missing its tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import certificates
import pytest
from serving import START_SECONDS, WAIT_SECONDS, free_port, wait_for


def _user() -> dict[str, Any]:
    """Whom a service is run as: PostgreSQL refuses root. The arguments are `subprocess.Popen`'s."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses root, and there is no other user here")


class Service:
    """A server of another language in a folder of its own: started, restarted and stopped by its process id."""

    name: str

    def __init__(self) -> None:
        self.user = _user()
        # Not pytest's folder: that one is closed to other users.
        self._temporary = tempfile.TemporaryDirectory(prefix="whilst-", dir="/tmp")
        self.folder = Path(self._temporary.name)
        self.own(self.folder)
        self.port = free_port()
        self.key_file = self._copy(certificates.ALL_NAMES, "server.pem")
        self.authority_file = self._copy(certificates.AUTHORITY, "authority.pem")

    def own(self, path: Path) -> None:
        """Give a path to the user of the service."""
        if self.user:
            os.chown(path, self.user["user"], self.user["group"])

    def _copy(self, certificate: Path, name: str) -> Path:
        """A copy that is the service's own and nobody else's to read, which PostgreSQL asks of a key."""
        copy = self.folder / name
        shutil.copyfile(certificate, copy)
        copy.chmod(0o600)
        self.own(copy)
        return copy

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the service answers."""
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                **self.user,
            )

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.log()}")
            return self.ready()

        try:
            wait_for(ready, f"{self.name} is ready", START_SECONDS)
        except TimeoutError as error:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"{error}\n{self.log()}") from None

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop at once, whoever is connected: SIGINT is PostgreSQL's "fast" and Redis's ordinary stop."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not stop:\n{self.log()}") from None

    def restart(self) -> None:
        self.stop()
        self.start()

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._temporary.cleanup()


class PostgreSQL(Service):
    """PostgreSQL with one superuser, `tester`, and one database, `tests`; by TCP with and without TLS, and by a Unix socket in
    `folder`."""

    name = "PostgreSQL"

    def __init__(self) -> None:
        installed = sorted(
            Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
        )
        if not installed:
            pytest.skip("there is no PostgreSQL here (Debian: apt-get install postgresql)")
        self.programs = installed[-1].parent
        super().__init__()
        self.data = self.folder / "data"
        try:
            subprocess.run(
                [
                    *(self.programs / "initdb", "--pgdata", self.data, "--username", "tester"),
                    *("--auth", "trust", "--encoding", "UTF8", "--no-sync", "--no-instructions"),
                ],
                check=True,
                cwd=self.folder,
                capture_output=True,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                timeout=START_SECONDS * 2,
                **self.user,
            )
        except subprocess.CalledProcessError as error:
            self._temporary.cleanup()
            raise AssertionError(f"initdb: {error.stderr.decode(errors='replace')}") from None

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "max_connections": 120,
            "ssl": "on",
            "ssl_cert_file": self.key_file,
            "ssl_key_file": self.key_file,
            # What keeps data through a loss of power costs time, and the data is gone afterwards anyway.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "autovacuum": "off",
            "log_min_messages": "fatal",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *options]

    def ready(self) -> bool:
        question = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(question, check=False, timeout=WAIT_SECONDS).returncode == 0


class Redis(Service):
    """Redis by TCP, by TLS on `tls_port` (Debian's Redis has it), and by the Unix socket `socket_path`."""

    name = "Redis"

    def __init__(self) -> None:
        self.program = shutil.which("redis-server")
        if self.program is None:
            pytest.skip("there is no Redis here (Debian: apt-get install redis-server)")
        super().__init__()
        self.tls_port = free_port()
        self.socket_path = self.folder / "redis.socket"

    def command(self) -> list[str]:
        assert self.program is not None
        settings = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"unixsocket {self.socket_path}",
            'save ""',
            f"tls-port {self.tls_port}",
            f"tls-cert-file {self.key_file}",
            f"tls-key-file {self.key_file}",
            f"tls-ca-cert-file {self.authority_file}",
            "tls-auth-clients no",
        ]
        file = self.folder / "redis.conf"
        file.write_text("\n".join(settings) + "\n")
        return [self.program, str(file)]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(100) == b"+PONG\r\n"
        except ConnectionError:
            return False
