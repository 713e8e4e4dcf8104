"""rclone's remote control: one request on one connection each, over its unix socket.

HTTP/1.0, so that an answer ends where the connection does. A call that is cancelled hangs up, and
rclone then cancels what it was doing (its request context); that it has ended, `running` tells.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from anyio.abc import ByteStream

MAX_HEAD_BYTES = 64 << 10
MAX_ANSWER_BYTES = 1 << 30
"""Of one JSON answer: a listing of a million files is a tenth of it."""

CHUNK_BYTES = 1 << 20


class Refused(Exception):
    """rclone answered with an error; `text` is its own, not scrubbed."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(f"status {status}")
        self.text = text
        self.status = status


class HungUp(Exception):
    """There is no answer: nobody listens, or the connection ended before it was whole."""


@dataclass(frozen=True, slots=True)
class Content:
    """An object on its way."""

    size_bytes: int | None
    """None where the remote does not say how long it is."""
    chunks: AsyncIterator[bytes]
    """Raises HungUp where it ends before `size_bytes`."""


class RemoteControl:
    """The control of one rclone process."""

    def __init__(self, socket: Path, user: str, password: str) -> None:
        self._socket = socket
        self._login = base64.b64encode(f"{user}:{password}".encode()).decode()

    async def call(self, command: str, **parameters: object) -> dict[str, Any]:
        """Ask `command` (`operations/stat`). Raises Refused, HungUp."""
        body = json.dumps(parameters).encode()
        return await self._ask(command, "application/json", body)

    async def upload(self, fs: str, folder: str, name: str, content: bytes) -> None:
        """Make the small object `folder`/`name` (letters, digits, dots and dashes).

        Raises Refused, HungUp.
        """
        boundary = secrets.token_hex(16)
        part = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        body = f"--{boundary}\r\n{part}\r\nContent-Type: application/octet-stream\r\n\r\n"
        parts = body.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        where = f"operations/uploadfile?fs={quote(fs, safe='')}&remote={quote(folder, safe='')}"
        await self._ask(where, f"multipart/form-data; boundary={boundary}", parts)

    @asynccontextmanager
    async def read(self, fs: str, path: str) -> AsyncIterator[Content]:
        """The object at `path`, piece by piece. Raises Refused (404: there is none), HungUp."""
        where = quote(f"[{fs}]/{path}", safe="/[]:")
        async with self._connected() as stream:
            await self._send(stream, f"GET /{where}", "", b"")
            status, size, beginning = await _head(stream)
            if status != 200:
                _refuse(await _all(stream, beginning), status)
            yield Content(size, _chunks(stream, beginning, size))

    async def running(self) -> Sequence[tuple[int, str]]:
        """(id, group) of each job that has not ended. Raises Refused, HungUp."""
        found = []
        for number in (await self.call("job/list")).get("runningIds") or ():
            try:
                status = await self.call("job/status", jobid=number)
            except Refused:
                continue  # it ended, and has been forgotten
            if not status.get("finished"):
                found.append((int(number), str(status.get("group"))))
        return found

    # -- inside --------------------------------------------------------------------------------

    async def _ask(self, where: str, kind: str, body: bytes) -> dict[str, Any]:
        async with self._connected() as stream:
            await self._send(stream, f"POST /{where}", kind, body)
            status, _, beginning = await _head(stream)
            answer = await _all(stream, beginning)
        if status != 200:
            _refuse(answer, status)
        try:
            found: dict[str, Any] = json.loads(answer)
        except ValueError as error:
            raise HungUp("rclone's answer is not whole") from error
        return found

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ByteStream]:
        try:
            async with await anyio.connect_unix(self._socket) as stream:
                yield stream
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise HungUp(f"rclone hung up: {str(error) or type(error).__name__}") from error

    async def _send(self, stream: ByteStream, what: str, kind: str, body: bytes) -> None:
        head = f"{what} HTTP/1.0\r\nHost: rclone\r\nAuthorization: Basic {self._login}\r\n"
        if kind:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        await stream.send(f"{head}\r\n".encode() + body)


async def _head(stream: ByteStream) -> tuple[int, int | None, bytes]:
    """Status, Content-Length, and what came with the head of the body. Raises HungUp."""
    read = b""
    while b"\r\n\r\n" not in read:
        if len(read) > MAX_HEAD_BYTES:
            raise HungUp("no answer of rclone: its head has no end")
        read += await stream.receive()
    head, _, beginning = read.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (s.partition(":") for s in lines)
    }
    try:
        length = fields.get("content-length")
        return int(first.split()[1]), None if length is None else int(length), beginning
    except (IndexError, ValueError) as error:
        raise HungUp("no answer of rclone: its head cannot be read") from error


async def _all(stream: ByteStream, beginning: bytes) -> bytes:
    answer = bytearray(beginning)
    async for chunk in stream:
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise HungUp("rclone's answer has no end")
    return bytes(answer)


async def _chunks(stream: ByteStream, beginning: bytes, size: int | None) -> AsyncIterator[bytes]:
    """The body in pieces of about CHUNK_BYTES."""
    read, piece = len(beginning), bytearray(beginning)
    async for chunk in stream:
        piece += chunk
        read += len(chunk)
        if len(piece) >= CHUNK_BYTES:
            yield bytes(piece)
            piece.clear()
    if size is not None and read != size:
        raise HungUp(f"{read} of {size} bytes came")
    if piece:
        yield bytes(piece)


def _refuse(answer: bytes, status: int) -> None:
    """Raises Refused with what rclone says."""
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer[:1000].decode("utf-8", "replace") or f"status {status}"
    raise Refused(text, status)
