"""Intake: real connections on a real loop; a whole frame is admitted whatever becomes of its shim."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd.intake import server as module
from hookd.intake.server import ACCEPT_AT_ONCE, HEARTBEAT_AT_MOST_S, Intake
from hookd.sockets import listen
from hookd.wire import MAX_BODY, Answer, Decoder, EventFrame, Frame, Heartbeat, encode
from tests.conftest import Logs

pytestmark = pytest.mark.anyio

GARBAGE = "not a frame"
NOT_ONE = "not one event"
SLOW = "no whole frame in time"
PEER = "refused a connection"


class Admitted:
    """An admission that answers at once, or when it is told to."""

    def __init__(self) -> None:
        self.frames: list[EventFrame] = []
        self.answer = Answer(0, "")
        self.gate: anyio.Event | None = None
        self.came = anyio.Event()
        self.fault: Exception | None = None

    async def __call__(self, frame: EventFrame, origin: str) -> Answer:
        assert origin == "socket"
        self.frames.append(frame)
        self.came.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return self.answer


class Client:
    """A shim's end of a connection."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self._path = str(path)
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    async def connect(self) -> Client:
        await asyncio.get_running_loop().sock_connect(self.socket, self._path)
        return self

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def frame(self) -> Frame | None:
        """The next frame, None at the end of the connection."""
        while not self._frames:
            try:
                data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            except ConnectionResetError:  # it closed with bytes of ours unread
                return None
            if not data:
                return None
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    async def answer(self) -> Answer | None:
        """The answer, heartbeats passed over."""
        while isinstance(found := await self.frame(), Heartbeat):
            pass
        assert found is None or isinstance(found, Answer)
        return found

    def close(self) -> None:
        self.socket.close()


class Door:
    """An intake, and clients that are closed with it."""

    def __init__(self, folder: Path, admitted: Admitted, **options: Any) -> None:
        self.path = folder / "hook.sock"
        server = listen(self.path, "test", mode=0o600, backlog=256)
        settings: dict[str, Any] = {
            "allowed_uids": frozenset({os.geteuid()}),
            "max_connections": 512,
            "frame_timeout_s": 30.0,
        }
        self.intake = Intake(server, admit=admitted, **settings | options)
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(self.path)
        self.clients.append(client)
        return await client.connect()

    def leave(self) -> None:
        """Every shim goes."""
        for client in self.clients:
            client.close()

    async def call(self, data: bytes) -> Answer | None:
        """One connection that sends this and waits for the answer."""
        client = await self.connect()
        await client.send(data)
        return await client.answer()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until it holds: what is counted has no event of its own."""
        with anyio.fail_after(5):
            while not condition():
                await anyio.sleep(0.001)


@asynccontextmanager
async def opened(folder: Path, admitted: Admitted, **options: Any) -> AsyncIterator[Door]:
    door = Door(folder, admitted, **options)
    door.intake.start()
    try:
        with anyio.fail_after(20):
            yield door
            door.leave()
            if admitted.gate is not None:
                admitted.gate.set()
            await door.until(lambda: door.intake.open == 0)
    finally:
        door.leave()
        door.intake.close()


@pytest.fixture
def admitted() -> Admitted:
    return Admitted()


@pytest.fixture
async def door(tmp_path: Path, admitted: Admitted, logs: Logs) -> AsyncIterator[Door]:
    async with opened(tmp_path, admitted) as found:
        yield found


def event(*argv: str, timeout_ms: int = 5000) -> bytes:
    return encode(EventFrame(os.urandom(16), argv or ("close", "z"), "/", timeout_ms))


class TestOneEvent:
    async def test_answer(self, door: Door, admitted: Admitted) -> None:
        """The event arrives as it was sent, and the answer as it was given; then it is closed."""
        admitted.answer = Answer(7, "zdb may not serve")
        client = await door.connect()
        await client.send(event("ready", "z"))
        assert await client.frame() == Answer(7, "zdb may not serve")
        assert await client.frame() is None
        assert admitted.frames[0].argv == ("ready", "z")
        assert door.intake.counts.accepted == 1

    async def test_byte_by_byte(self, door: Door, admitted: Admitted) -> None:
        """A frame may come in any pieces."""
        client = await door.connect()
        for byte in event("close", "z"):
            await client.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        assert await client.answer() == Answer(0)
        assert len(admitted.frames) == 1

    async def test_the_longest(self, door: Door, admitted: Admitted) -> None:
        """A frame of the full megabyte is taken, however many reads it needs."""
        empty = len(event("jump-index", "z", "a", "b", "")) - 16
        dirty = "1 " * ((MAX_BODY - empty) // 2)
        assert await door.call(event("jump-index", "z", "a", "b", dirty)) == Answer(0)
        assert admitted.frames[0].argv[4] == dirty

    async def test_half_closed(self, door: Door) -> None:
        """A client that says it will send no more still gets its answer."""
        client = await door.connect()
        await client.send(event())
        client.socket.shutdown(socket.SHUT_WR)
        assert await client.answer() == Answer(0)

    async def test_fault_in_admission(self, tmp_path: Path, admitted: Admitted, logs: Logs) -> None:
        """A fault of ours closes the connection without an answer: the shim comes again or spools."""
        loop = asyncio.get_running_loop()
        seen: list[Any] = []
        loop.set_exception_handler(lambda _, context: seen.append(context))
        admitted.fault = RuntimeError("bug")
        async with opened(tmp_path, admitted) as door:
            assert await door.call(event()) is None
            admitted.fault = None
            assert await door.call(event()) == Answer(0)


class TestNoEvent:
    @pytest.mark.parametrize(
        ("data", "line"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", GARBAGE),
            (bytes(100), GARBAGE),
            (event()[:-1] + b"\0", GARBAGE),
            (b"HKD\x01\x01\0\0\0" + struct.pack(">II", MAX_BODY + 1, 0), GARBAGE),
            (b"HKD\x01\x01\0\0\0" + b"\xff" * 8, GARBAGE),
            (event() + b"x", GARBAGE),
            (event() + b"HKD", NOT_ONE),
            (event() + event(), NOT_ONE),
            (encode(Heartbeat()), NOT_ONE),
            (encode(Answer(0)), NOT_ONE),
            (encode(Heartbeat()) + event(), NOT_ONE),
        ],
        ids=[
            "http", "zeros", "checksum", "oversized", "4 GiB", "junk behind", "more behind",
            "two events", "heartbeat", "answer", "heartbeat first",
        ],
    )  # fmt: skip
    async def test_refused(
        self, door: Door, admitted: Admitted, logs: Logs, data: bytes, line: str
    ) -> None:
        """What is not exactly one event is closed unanswered and admitted not at all."""
        logs.expect(line)
        assert await door.call(data) is None
        assert admitted.frames == []
        assert door.intake.counts.bad_frame == 1
        assert await door.call(event()) == Answer(0)

    async def test_vanishes_within(self, door: Door, admitted: Admitted) -> None:
        """A shim that dies within its frame has sent nothing; nor one that sends no byte at all."""
        for data in (b"", event()[:20]):
            client = await door.connect()
            await client.send(data)
            client.close()
        await door.until(lambda: door.intake.counts.vanished == 2)
        assert admitted.frames == []

    async def test_too_slow(self, tmp_path: Path, admitted: Admitted, logs: Logs) -> None:
        """The limit is for the whole frame: a byte now and then does not prolong it."""
        logs.expect(SLOW)
        async with opened(tmp_path, admitted, frame_timeout_s=0.15) as door:
            client = await door.connect()
            async with anyio.create_task_group() as group:

                async def trickle() -> None:
                    with contextlib.suppress(BrokenPipeError):  # hung up on, and not told yet
                        for byte in event():
                            await client.send(bytes([byte]))
                            await anyio.sleep(0.02)

                group.start_soon(trickle)
                assert await client.answer() is None
                group.cancel_scope.cancel()
            assert door.intake.counts.slow == 1
            assert admitted.frames == []

    async def test_silent(self, tmp_path: Path, admitted: Admitted, logs: Logs) -> None:
        """Nor may a connection stay that sends nothing; one that waits for its answer may."""
        logs.expect(SLOW)
        admitted.gate = anyio.Event()
        async with opened(tmp_path, admitted, frame_timeout_s=0.1) as door:
            patient = await door.connect()
            await patient.send(event())
            silent = await door.connect()
            assert await silent.answer() is None
            admitted.gate.set()
            assert await patient.answer() == Answer(0)


class TestPeer:
    async def test_another_user(self, tmp_path: Path, admitted: Admitted, logs: Logs) -> None:
        """A user who is not allowed is closed before anything is read."""
        logs.expect(PEER)
        async with opened(tmp_path, admitted, allowed_uids=frozenset({12345})) as door:
            assert await door.call(event()) is None
            assert door.intake.counts.refused_peer == 1
            assert door.intake.open == 0
        assert admitted.frames == []


class TestVanished:
    async def test_after_the_frame(self, door: Door, admitted: Admitted) -> None:
        """A shim that is killed after its frame went out: the event is admitted and finished."""
        admitted.gate = anyio.Event()
        client = await door.connect()
        await client.send(event("jump-data", "z", "a", "b"))
        client.close()
        await admitted.came.wait()
        assert admitted.frames[0].argv[0] == "jump-data"
        assert door.intake.open == 1
        admitted.gate.set()
        await door.until(lambda: door.intake.open == 0)
        assert door.intake.counts.vanished == 0

    async def test_before_the_accept(self, tmp_path: Path, admitted: Admitted) -> None:
        """So is one that had come and gone before the daemon looked."""
        door = Door(tmp_path, admitted)
        client = await door.connect()
        await client.send(event())
        client.close()
        door.intake.start()
        with anyio.fail_after(5):
            await admitted.came.wait()
        await door.until(lambda: door.intake.open == 0)
        door.intake.close()

    async def test_heartbeats_to_nobody(self, door: Door, admitted: Admitted) -> None:
        """Heartbeats to a shim that is gone do no harm to its event."""
        admitted.gate = anyio.Event()
        client = await door.connect()
        await client.send(event(timeout_ms=60))
        await admitted.came.wait()
        client.close()
        await anyio.sleep(3 * module.TICK_S)
        assert door.intake.open == 1
        admitted.gate.set()
        await door.until(lambda: door.intake.open == 0)


class TestHeartbeats:
    async def test_come_in_time(self, door: Door, admitted: Admitted) -> None:
        """While the answer is being worked on, the shim hears of it before a third of its patience."""
        admitted.gate = anyio.Event()
        client = await door.connect()
        await client.send(event(timeout_ms=300))
        await admitted.came.wait()
        for _ in range(3):
            with anyio.fail_after(0.3):
                assert await client.frame() == Heartbeat()
        admitted.gate.set()
        assert await client.answer() == Answer(0)

    async def test_bounds(self) -> None:
        """No shim is left longer than HEARTBEAT_AT_MOST_S without one, none is flooded."""
        assert HEARTBEAT_AT_MOST_S <= 1.0
        assert module.TICK_S >= 0.01

    async def test_a_reader_that_does_not_read(self, tmp_path: Path, admitted: Admitted) -> None:
        """A shim that is stopped (its buffer full of heartbeats) holds nobody up."""
        admitted.gate = anyio.Event()
        async with opened(tmp_path, admitted) as door:
            stopped = await door.connect()
            await stopped.send(event(timeout_ms=1))
            await admitted.came.wait()
            [connection] = door.intake._connections
            connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            now = asyncio.get_running_loop().time()
            for _ in range(2000):
                connection.is_due(now)
            admitted.gate.set()
            assert await door.call(event()) == Answer(0)


class TestMany:
    async def test_at_once(self, door: Door, admitted: Admitted) -> None:
        """Two hundred shims at once each get their own answer."""
        answers: dict[int, Answer | None] = {}

        async def one(number: int) -> None:
            answers[number] = await door.call(event("close", str(number)))

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(one, number)
        assert set(answers.values()) == {Answer(0)}
        assert sorted(int(f.argv[1]) for f in admitted.frames) == list(range(200))
        assert door.intake.counts.accepted == 200 > ACCEPT_AT_ONCE

    async def test_beyond_the_limit(self, tmp_path: Path, admitted: Admitted) -> None:
        """More than `max_connections` wait in the backlog, and are served as others leave."""
        admitted.gate = anyio.Event()
        async with opened(tmp_path, admitted, max_connections=3) as door:
            clients = [await door.connect() for _ in range(10)]
            for client in clients:
                await client.send(event())
            await door.until(lambda: len(admitted.frames) == 3)
            await anyio.sleep(0.02)
            assert len(admitted.frames) == door.intake.open == 3
            admitted.gate.set()
            for client in clients:
                assert await client.answer() == Answer(0)
        assert len(admitted.frames) == 10

    async def test_silent_ones_do_not_keep_others_out(
        self, tmp_path: Path, admitted: Admitted, logs: Logs
    ) -> None:
        """Connections that never send give up their place after the time limit."""
        logs.expect(SLOW)
        async with opened(tmp_path, admitted, max_connections=2, frame_timeout_s=0.1) as door:
            for _ in range(2):
                await door.connect()
            assert await door.call(event()) == Answer(0)

    async def test_out_of_descriptors(self, tmp_path: Path, admitted: Admitted, logs: Logs) -> None:
        """Where nothing can be accepted, those that wait are served later."""
        logs.expect("cannot accept")
        door = Door(tmp_path, admitted)
        real, failed = door.intake._server, 0

        class Full:
            """A listener whose process has no descriptor left, once."""

            def accept(self) -> Any:
                nonlocal failed
                if not failed:
                    failed += 1
                    raise OSError(24, "Too many open files")
                return real.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        door.intake._server = Full()  # type: ignore[assignment]
        door.intake.start()
        with anyio.fail_after(5):
            assert await door.call(event()) == Answer(0)
        assert failed == 1
        door.leave()
        door.intake.close()
        await door.until(lambda: door.intake.open == 0)


class TestClose:
    async def test_under_way(self, door: Door, admitted: Admitted) -> None:
        """Closed, nobody new gets in; who is in, is answered."""
        admitted.gate = anyio.Event()
        client = await door.connect()
        await client.send(event())
        await admitted.came.wait()
        door.intake.close()
        with pytest.raises(ConnectionRefusedError):
            await door.connect()
        admitted.gate.set()
        assert await client.answer() == Answer(0)
        door.intake.close()

    async def test_does_not_open_again(self, tmp_path: Path, admitted: Admitted) -> None:
        """The end of a connection after `close` does not make it accept again."""
        admitted.gate = anyio.Event()
        async with opened(tmp_path, admitted, max_connections=1) as door:
            client = await door.connect()
            await client.send(event())
            await admitted.came.wait()
            door.intake.close()
            admitted.gate.set()
            assert await client.answer() == Answer(0)
            await door.until(lambda: door.intake.open == 0)
            with pytest.raises(ConnectionRefusedError):
                await door.connect()
