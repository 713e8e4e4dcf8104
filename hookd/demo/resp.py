"""The least of the redis protocol that zdb speaks: commands out, replies in. Blocking, loopback."""

from __future__ import annotations

import socket
from types import TracebackType

Reply = bytes | int | None | list["Reply"]


class RespError(Exception):
    """The server answered with an error; the message is its text."""


class Client:
    """One connection. Raises OSError when it ends, TimeoutError when an answer takes too long."""

    def __init__(self, port: int, *, within_s: float) -> None:
        """Connect to 127.0.0.1; `within_s` bounds the connecting and each answer."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=within_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()

    def ask(self, *words: bytes | str) -> Reply:
        """One command and its reply. Raises RespError for an error of the server's."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        head = b"*%d\r\n" % len(parts)
        self._socket.sendall(head + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
        return self._reply()

    def _reply(self) -> Reply:
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server hung up")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RespError(rest.decode("utf-8", "replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        raise ConnectionError(f"read {line[:40]!r}, expected a reply of the redis protocol")

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        body = self._answers.read(size + 2)
        if len(body) != size + 2:
            raise ConnectionError("the server hung up inside of a value")
        return body[:-2]
