"""Whether hookd itself reaches zstor's metadata backends: a connection, PING and NSINFO, bounded in time.

They are zdbs, so they speak the redis protocol; neither command needs a password (0-db
zdbd/commands.c, commands_namespace.c).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

PROBE_S = 3.0
"""For one backend, from the connection to the last answer."""

NEEDS_FREE_BYTES = 100 << 20
"""With less, zstor calls a backend not writable (0-stor_v2 zstor/src/zdb.rs)."""

_MAX_ANSWER = 1 << 16
_FREE = re.compile(rb"(?:data|index)_disk_freespace_bytes: *(\d+)")
_LIMIT = re.compile(rb"data_limits_bytes: *(\d+)")
_SIZE = re.compile(rb"data_size_bytes: *(\d+)")


@dataclass(frozen=True, slots=True)
class Backend:
    """One metadata backend of zstor's configuration."""

    address: str
    """`IP:port`, brackets around IPv6."""
    namespace: str = ""
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port. Raises ValueError."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


async def unusable(backends: Sequence[Backend]) -> dict[str, str]:
    """Address → why it cannot be used, for those of `backends` that cannot; all at once."""
    found: dict[str, str] = {}

    async def one(backend: Backend) -> None:
        reason = "no answer"
        with anyio.move_on_after(PROBE_S):
            try:
                reason = await _probe(backend)
            except (OSError, ValueError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                reason = str(error) or type(error).__name__
        if reason:
            found[backend.address] = reason

    async with anyio.create_task_group() as group:
        for backend in backends:
            group.start_soon(one, backend)
    return found


async def _probe(backend: Backend) -> str:
    """Why it cannot be used, nothing if it can."""
    host, port = backend.place
    async with await anyio.connect_tcp(host, port) as stream:
        if not (await _ask(stream, b"PING")).startswith(b"+PONG"):
            return "it does not answer PING"
        if not backend.namespace:
            return ""
        info = await _ask(stream, b"NSINFO", backend.namespace.encode())
    if info.startswith(b"-Namespace not found"):  # zstor is not let in, and no restart of it helps
        return f"it has no namespace {backend.namespace}"
    free = [int(number) for number in _FREE.findall(info)]
    limit, size = _LIMIT.search(info), _SIZE.search(info)
    if limit and size and int(limit[1]):
        free.append(int(limit[1]) - int(size[1]))
    if free and min(free) <= NEEDS_FREE_BYTES:
        return f"it has {min(free)} bytes free, zstor needs more than {NEEDS_FREE_BYTES}"
    return ""


async def _ask(stream: anyio.abc.SocketStream, *words: bytes) -> bytes:
    """One command; its answer, read to the end of a bulk string where it is one."""
    parts = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    await stream.send(b"*%d\r\n%b" % (len(words), parts))
    answer = b""
    while not _whole(answer):
        if len(answer) > _MAX_ANSWER:
            raise ValueError("its answer is too long")
        answer += await stream.receive()
    return answer


def _whole(answer: bytes) -> bool:
    head, end, rest = answer.partition(b"\r\n")
    if not end:
        return False
    if head[:1] == b"$" and head[1:].isdigit():
        return len(rest) >= int(head[1:]) + 2
    return True
