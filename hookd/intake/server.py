"""Stage intake: shims on the hook socket; one event in, heartbeats, one answer out.

Works on plain non-blocking sockets: a connection carries one small frame each way, and a stream
object for each would cost more than the event (measured: 3,300 events/s with streams). The
invariants: a frame that came whole is admitted, whatever becomes of its connection; a connection
costs a bounded amount of memory and time; beyond `max_connections` others wait in the backlog.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hookd import faults
from hookd.errors import FrameError
from hookd.log import get
from hookd.sockets import peer_of
from hookd.wire import Answer, Decoder, EventFrame, Heartbeat, encode

log = get("intake")

READ_BYTES = 16 * 1024
"""More than nearly every frame, and below what makes each read map fresh memory."""

ACCEPT_AT_ONCE = 64
HEARTBEAT_AT_MOST_S = 1.0
TICK_S = 0.025
"""How finely heartbeats and time limits are kept; nothing ticks without a connection."""

_HEARTBEAT = encode(Heartbeat())

Admit = Callable[[EventFrame, str], Awaitable[Answer]]


@dataclass(slots=True)
class IntakeCounts:
    """Connections since the start of this process."""

    accepted: int = 0
    refused_peer: int = 0
    bad_frame: int = 0
    slow: int = 0
    vanished: int = 0
    """Closed by the shim before a whole frame had come."""


class Intake:
    """Accepts on a listening socket until closed."""

    def __init__(
        self,
        server: socket.socket,
        *,
        admit: Admit,
        allowed_uids: frozenset[int],
        max_connections: int,
        frame_timeout_s: float,
    ) -> None:
        """`server` is listening and non-blocking; it belongs to this object from now on."""
        self._server = server
        self._admit = admit
        self._allowed_uids = allowed_uids
        self._max_connections = max_connections
        self._frame_timeout_s = frame_timeout_s
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._accepting = False
        self._ticking = False
        self.counts = IntakeCounts()

    def start(self) -> None:
        """Begin to accept."""
        self._accept_more()

    def take_backlog(self) -> None:
        """Take all that have connected; for a socket that outlives us, where nobody would hear of it."""
        while self._accepting and self._accept():
            pass

    def close(self) -> None:
        """Stop listening. Connections under way are answered; later shims spool."""
        if self._accepting:
            self._loop.remove_reader(self._server)
            self._accepting = False
        self._server.close()

    @property
    def open(self) -> int:
        """Connections under way."""
        return len(self._connections)

    @property
    def unread(self) -> int:
        """Connections whose event admission does not have yet."""
        return sum(not each.handed_in for each in self._connections)

    def _accept_more(self) -> None:
        if not self._accepting and self._server.fileno() >= 0:
            self._loop.add_reader(self._server, self._accept)
            self._accepting = True

    def _accept(self) -> bool:
        """Some of those that wait; whether more may do so."""
        for _ in range(ACCEPT_AT_ONCE):
            if len(self._connections) >= self._max_connections:
                self._loop.remove_reader(self._server)
                self._accepting = False
                return False
            try:
                connection, _address = self._server.accept()
            except BlockingIOError:
                return False
            except OSError as error:  # out of descriptors: those that wait are not lost
                log.error("cannot accept", error=str(error))
                self._loop.remove_reader(self._server)
                self._accepting = False
                self._loop.call_later(0.2, self._accept_more)
                return False
            self.counts.accepted += 1
            self._take(connection)
        return True

    def _take(self, connection: socket.socket) -> None:
        peer = peer_of(connection)
        if peer.uid not in self._allowed_uids:
            self.counts.refused_peer += 1
            log.error("refused a connection", uid=peer.uid, pid=peer.pid)
            connection.close()
            return
        taken = _Connection(self, connection, self._loop.time() + self._frame_timeout_s)
        self._connections.add(taken)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)
        taken.read()

    def _tick(self) -> None:
        """Heartbeats and time limits of all connections: a timer for each would cost more."""
        now = self._loop.time()
        for connection in list(self._connections):
            if connection.due <= now:
                connection.is_due(now)
        self._ticking = bool(self._connections)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)

    def _gone(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if not self._accepting:
            self._accept_more()


class _Connection:
    """One shim."""

    __slots__ = (
        "_decoder",
        "_every_s",
        "_intake",
        "_reading",
        "_socket",
        "_task",
        "due",
        "handed_in",
    )

    def __init__(self, intake: Intake, connection: socket.socket, due: float) -> None:
        self._intake = intake
        self._socket = connection
        self._decoder: Decoder | None = Decoder()
        self._reading = False
        self._every_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.due = due
        """Loop time: a whole frame until then; after it, the next heartbeat."""
        self.handed_in = False
        """Whether admission has the event."""

    def read(self) -> None:
        """What is there; the whole frame in nearly every case."""
        assert self._decoder is not None
        intake = self._intake
        try:
            data = self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
            frames = self._decoder.feed(data) if data else []
        except BlockingIOError:
            self._wait()
            return
        except FrameError as error:
            intake.counts.bad_frame += 1
            log.error("not a frame", error=str(error))
            self._close()
            return
        except OSError:
            data, frames = b"", []
        if not frames:
            if data:
                self._wait()
                return
            intake.counts.vanished += 1
            self._close()
            return
        frame = frames[0]
        if not isinstance(frame, EventFrame) or len(frames) > 1 or self._decoder.pending:
            intake.counts.bad_frame += 1
            log.error("not one event", error="read more than one frame, or no event")
            self._close()
            return
        self._begin(frame)

    def _wait(self) -> None:
        if not self._reading:
            self._intake._loop.add_reader(self._socket, self.read)
            self._reading = True

    def is_due(self, now: float) -> None:
        """The time at `due` has come."""
        if self._every_s is None:
            self._intake.counts.slow += 1
            log.error("no whole frame in time", seconds=self._intake._frame_timeout_s)
            self._close()
            return
        self.due = now + self._every_s
        try:
            self._socket.send(_HEARTBEAT, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # it has some unread already
        except OSError:
            self.due = math.inf  # the shim is gone; its event goes on

    def _begin(self, frame: EventFrame) -> None:
        faults.point("frame-read")
        self._stop_reading()
        self._decoder = None
        loop = self._intake._loop
        # a third of what the shim bears: two may be late
        self._every_s = max(TICK_S, min(HEARTBEAT_AT_MOST_S, frame.timeout_ms / 3000))
        self.due = loop.time() + self._every_s
        self._task = loop.create_task(self._serve(frame))

    async def _serve(self, frame: EventFrame) -> None:
        self.handed_in = True
        try:
            answer = await self._intake._admit(frame, "socket")
            try:
                self._socket.send(encode(answer), socket.MSG_DONTWAIT)
            except OSError:
                pass  # the shim is gone; it comes again or has spooled, and the id is known
            faults.point("answer-sent")
        finally:
            self._close()

    def _stop_reading(self) -> None:
        if self._reading:
            self._intake._loop.remove_reader(self._socket)
            self._reading = False

    def _close(self) -> None:
        self._stop_reading()
        self._socket.close()
        self._intake._gone(self)
