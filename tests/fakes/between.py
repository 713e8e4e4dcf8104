"""A server that passes HTTP on to a real one, but for what a test wants to go wrong; and certificates."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a request is answered with instead of being passed on."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""


class Between(http.server.ThreadingHTTPServer):
    """Listens on a port of its own. All faults are off at first."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.upstream = upstream
        """The port of the real one."""
        self.refuse: dict[str, Refusal] = {}
        """Method, or "*" → the answer to it."""
        self.refused = 0
        """Requests that were answered so."""
        self.cut_puts = False
        """Keeps half of what a PUT brings, and says that all is well."""
        self.hang_up_puts = False
        """Ends the connection in the middle of a PUT."""
        self.cut_gets = False
        """Sends half of what a GET asks for, and nothing of the rest when that is asked for."""
        self.halve_gets = False
        """Sends half of what each GET asks for."""
        self.slow_s = 0.0
        """Before each answer to a PUT."""
        self.all_slow_s = 0.0
        """Before each answer."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_address[1]

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"http://127.0.0.1:{self.port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is none."""


@contextlib.contextmanager
def between(upstream: int) -> Iterator[Between]:
    """One that serves while the context lasts."""
    server = Between(upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_HOP = ("content-length", "transfer-encoding", "connection", "expect", "accept-encoding")


class _Passing(http.server.BaseHTTPRequestHandler):
    server: Between
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _pass(self) -> None:
        server = self.server
        time.sleep(server.all_slow_s)
        if self.command == "PUT" and server.hang_up_puts:
            self.rfile.read(1)
            self.close_connection = True
            return
        body = self._body()
        if self.command == "PUT":
            time.sleep(server.slow_s)
        refusal = server.refuse.get(self.command) or server.refuse.get("*")
        if refusal is not None:
            server.refused += 1
            self._answer(refusal.status, refusal.headers, refusal.content)
            return
        if self.command == "PUT" and server.cut_puts:
            body = body[: len(body) // 2]
        onward = http.client.HTTPConnection("127.0.0.1", server.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        onward.request(self.command, self.path, body, headers)
        answer = onward.getresponse()
        content = answer.read()
        onward.close()
        self._answer(answer.status, dict(answer.getheaders()), content)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_POST = _pass
    do_PROPFIND = do_MKCOL = do_MOVE = do_COPY = do_PROPPATCH = _pass

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(content))))
        self.end_headers()
        server = self.server
        if self.command == "GET" and len(content) > 100 and (server.cut_gets or server.halve_gets):
            # rclone asks for the rest, with a range
            nothing = server.cut_gets and self.headers.get("Range")
            self.wfile.write(b"" if nothing else content[: len(content) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(content)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of a server, signed by nobody but itself."""

    certificate: Path
    key: Path


def certificate(
    folder: Path, *, name: str = "IP:127.0.0.1", from_to: tuple[str, str] | None = None
) -> Certificate:
    """Made by openssl, or the test is skipped. `from_to` are two times as YYMMDDHHMMSSZ."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH")
    folder.mkdir()
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    settings = folder / "openssl.cnf"
    settings.write_text(
        f"[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=a test\n"
        f"[ext]\nsubjectAltName={name}\nbasicConstraints=critical,CA:TRUE\n"
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/database\nnew_certs_dir={folder}\n"
        f"serial={folder}/serial\npolicy=any\ndefault_md=sha256\n[any]\ncommonName=supplied\n"
    )
    (folder / "database").touch()
    (folder / "serial").write_text("01\n")
    request = folder / "request.pem"
    own = ["-config", str(settings)]
    _openssl("req", *own, "-newkey", "rsa:2048", "-nodes", "-keyout", made.key, "-out", request)
    times = from_to or ("200101000000Z", "491231235959Z")
    signing = ["-selfsign", "-batch", "-notext", "-extensions", "ext", "-keyfile", str(made.key)]
    dates = ["-startdate", times[0], "-enddate", times[1]]
    _openssl("ca", *own, *signing, *dates, "-in", request, "-out", made.certificate)
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
