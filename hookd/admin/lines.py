"""The machinery of a stats socket: one line in, an answer out, closed. What can be asked is a table.

Nothing here can stop the process or hold it up: a connection costs a bounded amount of memory and
time, a fault in an answer is logged and becomes a line. The socket listens from the moment the
object is made, so whoever was told "ready" gets through.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

from hookd.admin.words import one_line
from hookd.errors import HookdError
from hookd.log import get, scrub
from hookd.sockets import allowed_uids, listen, peer_of

log = get("admin")

MAX_LINE = 4096
LINE_WITHIN_S = 5.0
ANSWER_WITHIN_S = 30.0
"""A reader that does not take its answer by then is let go."""

MAX_CONNECTIONS = 32
"""Served at once; later ones wait in the listen queue."""

BACKLOG = 128

REFUSED = "error: "
"""How an answer begins that says why not."""


class Refused(HookdError):
    """What was told does not apply; the message is one line for the administrator."""


class Gone(Exception):
    """Whoever asked has hung up."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    rest: str
    """What follows the command's name."""
    uid: int
    say: Callable[[str], Awaitable[None]]
    """Sends a line before the answer. Raises Gone."""


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that can be asked or told."""

    usage: str
    does: str
    run: Callable[[Asked], Awaitable[str]]
    changes: bool = False
    """Whether it changes something: for root and the daemon's own user only."""


class LineServer:
    """Answers on a socket until cancelled."""

    def __init__(
        self, path: Path, commands: Mapping[str, Command], users: Collection[str | int]
    ) -> None:
        """Listens; the caller holds the socket's lock. `users` may ask too. Raises UserError."""
        self._readers = allowed_uids(users)
        self._writers = allowed_uids(())
        self._room = anyio.Semaphore(MAX_CONNECTIONS)
        self._commands = {**commands, "help": Command("help", "this", self._help)}
        self._server = listen(path, "stats.socket", mode=0o600, backlog=BACKLOG)

    async def run(self) -> None:
        """Accept and answer. Cancellation lets go of all connections."""
        try:
            async with anyio.create_task_group() as self._group:
                while True:
                    await self._room.acquire()
                    self._group.start_soon(self._serve, await self._accept())
        finally:
            self._server.close()

    def changed(self) -> None:
        """A command that changes something was run."""

    async def _accept(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return (await loop.sock_accept(self._server))[0]
            except OSError as error:  # out of descriptors: those that wait are not lost
                log.error("cannot accept", error=str(error))
                await anyio.sleep(0.2)

    # -- one connection ------------------------------------------------------------------------

    async def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.setblocking(False)
                answer = await self._answer(connection)
                await _send(connection, answer)
        except (OSError, Gone):
            pass  # whoever asked is gone
        finally:
            self._room.release()

    async def _answer(self, connection: socket.socket) -> str:
        """Read the line (also of whoever is refused: they would not hear it while they write)."""
        peer = peer_of(connection)
        try:
            with anyio.fail_after(LINE_WITHIN_S):
                line = await _read_line(connection)
        except TimeoutError:
            return f"{REFUSED}no line within {LINE_WITHIN_S:g} s"
        if line is None:
            return f"{REFUSED}the line is longer than {MAX_LINE} bytes"
        if peer.uid not in self._readers:
            log.error("refused a connection", uid=peer.uid, pid=peer.pid)
            return f"{REFUSED}user {peer.uid} may not ask"
        name, _, rest = line.strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            shown = one_line(name[:40]) or "nothing"
            return f"{REFUSED}read {shown!r}, expected one of: {', '.join(self._commands)}"
        if command.changes and peer.uid not in self._writers:
            return f"{REFUSED}user {peer.uid} may ask, but not {name}"

        async def say(line: str) -> None:
            try:
                sent = await _send(connection, line)
            except OSError:
                sent = False
            if not sent:
                raise Gone

        return await self._run(command, Asked(rest.strip(), peer.uid, say))

    async def _run(self, command: Command, asked: Asked) -> str:
        try:
            return await command.run(asked)
        except Refused as error:
            return f"{REFUSED}{one_line(scrub(str(error)))}"
        except Gone:
            raise
        except Exception as error:  # a fault of ours is the asker's answer, not the daemon's end
            log.exception("internal error", command=command.usage)
            return f"{REFUSED}internal error: {one_line(scrub(repr(error)))}"
        finally:
            if command.changes:
                self.changed()

    async def _help(self, asked: Asked) -> str:
        width = max(len(command.usage) for command in self._commands.values())
        return "\n".join(f"{c.usage:<{width}}  {c.does}" for c in self._commands.values())


async def _send(connection: socket.socket, text: str) -> bool:
    """A line; False if it was not taken in time. Raises OSError."""
    line = text.encode("utf-8", "backslashreplace") + b"\n"
    with anyio.move_on_after(ANSWER_WITHIN_S) as scope:
        await asyncio.get_running_loop().sock_sendall(connection, line)
    return not scope.cancelled_caught


async def _read_line(connection: socket.socket) -> str | None:
    """Up to the line's end, or the writer's; None for one that is too long."""
    loop = asyncio.get_running_loop()
    line = b""
    while b"\n" not in line:
        if len(line) > MAX_LINE:
            return None
        data = await loop.sock_recv(connection, MAX_LINE + 1 - len(line))
        if not data:
            break
        line += data
    return line.partition(b"\n")[0].decode("utf-8", "replace")
