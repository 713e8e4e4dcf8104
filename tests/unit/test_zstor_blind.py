"""zstor's blindness: claimed only with the evidence complete, mended at most once in its time."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from hookd.errors import StoreTemporary, StoreUnreachable
from hookd.files import Roots
from hookd.log import register_secret
from hookd.stores.restart import Restart
from hookd.stores.zstor import ZstorStore
from hookd.stores.zstor_blind import BlindWatch, State
from hookd.stores.zstor_probe import Backend, unusable
from tests.fakes.zdb_server import FakeZdbServer, Space
from tests.fakes.zstor import FakeZstor, Mode

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sight(watch: BlindWatch) -> State:
    """Asked anew each time: mypy takes a plain attribute for unchanged."""
    return watch.state


@contextmanager
def backend(info: bytes = b"", *, mute: bool = False) -> Iterator[Backend]:
    """A zdb of which nothing is there but PING and NSINFO."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            with client:
                while data := client.recv(4096):
                    if mute:
                        continue
                    ping = b"PING" in data
                    client.sendall(b"+PONG\r\n" if ping else b"$%d\r\n%b\r\n" % (len(info), info))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Backend(f"127.0.0.1:{server.getsockname()[1]}", "meta")
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


ROOM = (
    b"# namespace\ndata_limits_bytes: 0\ndata_size_bytes: 5\ndata_disk_freespace_bytes: 900000000\n"
)


class TestProbe:
    async def test_usable(self) -> None:
        """It answers, and has room."""
        with backend(ROOM) as one, backend(ROOM) as two:
            assert await unusable([one, two]) == {}

    @pytest.mark.parametrize(
        "info",
        [
            b"data_disk_freespace_bytes: 104857600\n",
            b"index_disk_freespace_bytes: 5\n",
            b"data_limits_bytes: 200000000\ndata_size_bytes: 150000000\n",
        ],
    )
    async def test_full(self, info: bytes) -> None:
        """zstor calls it not writable; a restart would not help."""
        with backend(info) as one:
            assert "bytes free" in (await unusable([one]))[one.address]

    async def test_without_the_namespace(self) -> None:
        """zstor is not let in; a restart would not help."""
        with FakeZdbServer() as server:
            server.spaces["meta"] = Space()
            address = server.id.removeprefix("tcp://")
            assert await unusable([Backend(address, "meta")]) == {}
            found = await unusable([Backend(address, "lost")])
        assert found == {address: "it has no namespace lost"}

    async def test_away_or_mute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bounded in time, and named."""
        monkeypatch.setattr("hookd.stores.zstor_probe.PROBE_S", 0.2)
        with backend(mute=True) as mute:
            with backend() as gone:
                pass
            found = await unusable([mute, gone, Backend("nonsense")])
            assert set(found) == {mute.address, gone.address, "nonsense"}


NOT_WRITABLE = StoreUnreachable("put", "k", "Metastore is not writable: permission denied")


class World:
    """A zstor that refuses the canary while `error` is set."""

    def __init__(
        self, backends: list[Backend], restart: Restart | None = None, **more: float
    ) -> None:
        self.error: StoreUnreachable | StoreTemporary | None = NOT_WRITABLE
        self.now = 1000.0
        self.kept: list[float] = []
        self.watch = BlindWatch(
            backends=backends,
            look=self._look,
            restart=restart,
            keep=self._keep,
            confirm_s=0.05,
            clock=lambda: self.now,
            restarted_at=more.get("restarted_at"),
        )

    async def _look(self) -> None:
        if self.error is not None:
            raise self.error

    async def _keep(self, now: float) -> None:
        self.kept.append(now)

    async def steps(self, count: int = 2) -> None:
        for _ in range(count):
            await self.watch.step()
            await anyio.sleep(0.06)


class TestWatch:
    async def test_claimed(self) -> None:
        """All backends reached for a while, and zstor refuses: blind, until it stores again."""
        with backend(ROOM) as one:
            world = World([one])
            world.watch.suspect(NOT_WRITABLE)
            assert sight(world.watch) is State.SUSPECTED
            await world.watch.step()
            assert sight(world.watch) is State.SUSPECTED  # reached for a moment only
            await world.steps()
            assert sight(world.watch) is State.BLIND
            assert world.watch.advice is not None
            assert "restart zstor" in world.watch.advice
            assert world.watch.view()["state"] == "blind"
            world.error = None
            await world.watch.step()
            assert sight(world.watch) is State.WELL
            assert "blind" not in str(world.watch.view()["advice"])

    async def test_not_claimed_in_an_outage(self) -> None:
        """One backend away: never, however long."""
        with backend() as gone:
            pass
        with backend(ROOM) as one:
            world = World([one, gone])
            world.watch.suspect(NOT_WRITABLE)
            await world.steps(4)
            assert sight(world.watch) is State.SUSPECTED
            assert list(world.watch.unusable) == [gone.address]

    async def test_not_claimed_without_backends(self) -> None:
        """A configuration in which hookd finds none proves nothing."""
        world = World([])
        world.watch.suspect(NOT_WRITABLE)
        await world.steps(3)
        assert sight(world.watch) is State.SUSPECTED

    async def test_other_words(self) -> None:
        """zstor gone, or a data backend away, is no sign."""
        with backend(ROOM) as one:
            world = World([one])
            gone = StoreUnreachable("put", "k", "zstor.sock: Connection refused")
            world.watch.suspect(gone)
            assert sight(world.watch) is State.WELL
            world.watch.suspect(NOT_WRITABLE)
            world.error = gone
            await world.steps(4)
            assert sight(world.watch) is State.SUSPECTED

    async def test_restart_at_most_so_often(self, tmp_path: Path) -> None:
        """Only when blind, not again within its time, also not after a restart of hookd."""
        ran = tmp_path / "ran"
        command = f'{sys.executable} -c \'open("{ran}", "a").write("x")\''
        with backend(ROOM) as one:
            world = World([one], Restart(command, every_s=300))
            world.watch.suspect(NOT_WRITABLE)
            await world.watch.step()
            assert not ran.exists()
            await world.steps(6)
            assert ran.read_text() == "x"
            assert world.kept == [1000.0]
            world.now += 301
            await world.steps(6)
            assert ran.read_text() == "xx"
            assert world.watch.restarts == {"done": 2, "failed": 0}
            assert "did not help" in (world.watch.advice or "")
            later = World([one], Restart(command, every_s=300), restarted_at=900.0)
            later.watch.suspect(NOT_WRITABLE)
            await later.steps(4)
            assert sight(later.watch) is State.BLIND
            assert ran.read_text() == "xx"

    async def test_runs_until_it_sees(self) -> None:
        """In the background: looks when it is suspected, and ends with the first store."""
        with backend(ROOM) as one:
            world = World([one])
            world.watch._every_s = 0.02
            async with anyio.create_task_group() as group:
                group.start_soon(world.watch.run)
                world.watch.suspect(NOT_WRITABLE)
                with anyio.fail_after(5):
                    while sight(world.watch) is not State.BLIND:
                        await anyio.sleep(0.01)
                    world.error = None
                    while sight(world.watch) is not State.WELL:
                        await anyio.sleep(0.01)
                group.cancel_scope.cancel()


class TestRestart:
    async def test_environment_and_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of hookd's environment; no shell; what it says is one line without secrets."""
        register_secret("hunter2-registered")
        monkeypatch.setenv("HOOKD_ZDB__ADMIN_PASSWORD", "hunter3")
        code = 'import os; print(sorted(os.environ)); print("hunter2-registered", "$HOME;")'
        ran = await Restart(
            f"{sys.executable} -c '{code}'", every_s=1, scrub=lambda text: text
        ).run()
        assert ran.ok
        assert "HOOKD" not in ran.said and "PATH" in ran.said
        assert "*** $HOME;" in ran.said

    async def test_fails(self) -> None:
        """Its exit code is told; so is that there is no such program."""
        ran = await Restart(f"{sys.executable} -c 'raise SystemExit(3)'", every_s=1).run()
        assert (ran.ok, ran.line) == (False, "it ended with 3")
        ran = await Restart("/nowhere/at-all", every_s=1).run()
        assert not ran.ok and "cannot be run" in ran.line

    async def test_takes_too_long(self) -> None:
        """Killed, with what it started."""
        began = time.monotonic()
        ran = await Restart("sh -c 'sleep 60 & sleep 60'", every_s=1, limit_s=0.2).run()
        assert not ran.ok and "killed" in ran.line
        assert time.monotonic() - began < 5

    async def test_leaves_a_child(self) -> None:
        """A command that starts zstor in the background and returns has done what it should."""
        ran = await Restart("sh -c 'sleep 2 & echo started'", every_s=1).run()
        assert (ran.ok, ran.said) == (True, "started")


async def test_the_store_tells(tmp_path: Path) -> None:
    """Refusals reach the watch; a zstor that sees stores the canary, a blind one refuses it."""
    for name in ("index", "data"):
        (tmp_path / name).mkdir()
    with FakeZstor(tmp_path / "zstor.sock") as fake:
        store = ZstorStore(
            socket=fake.socket,
            roots=Roots(tmp_path / "index", tmp_path / "data"),
            staging=tmp_path / "staging",
        )
        store.prepare()
        heard: list[str] = []
        store.on_error = lambda error: heard.append(error.detail)
        await store.store_canary()
        fake.behave(Mode.BLIND)
        with pytest.raises(StoreUnreachable):
            await store.store_canary()
        assert any("not writable" in text for text in heard)
