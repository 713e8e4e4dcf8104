"""The recorded life of a real zdb, through shim and daemon, into an rclone store."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.demo.trace import Step
from tests.e2e.daemon import Daemon
from tests.e2e.player import Player, Zdb
from tests.fakes.rclone import FakeRclone
from tests.real.rclone import missing_rclone, program

pytest_plugins = ["tests.shim_build", "tests.e2e.recorded"]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def daemon(request: pytest.FixtureRequest, shim: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with an rclone store, on a folder that is its remote. Not started."""
    made = Daemon(tmp_path, shim)
    if request.param == "fake":
        fake = FakeRclone(tmp_path)
        made.store = fake.remote
        remote, rclone = "nas:zdb", str(fake.program)
    else:
        missing_rclone()
        remote, rclone = str(made.store), program()
    made.configure(
        store__kind="rclone",
        store__directory__path=None,
        store__rclone__remote=remote,
        store__rclone__program=rclone,
    )
    yield made
    made.close()


@pytest.fixture
def player(daemon: Daemon, listener: Zdb) -> Iterator[Player]:
    made = Player(daemon, listener)
    yield made
    made.collect()


def test_all_of_it(player: Player, steps: list[Step]) -> None:
    """Every hook exits as it did in the record; the remote holds what zdb had, to the byte."""
    player.daemon.start()
    player.play(steps)
    assert player.codes == {step.number: step.exit for step in steps}
    player.finish()
    assert len(player.daemon.logged("retrieved")) > 0


def test_rclone_killed_again_and_again(player: Player, steps: list[Step]) -> None:
    """Nothing is lost; the store was down for a while, and says so."""
    daemon = player.daemon
    daemon.expect("rclone ended", "store is down", "store is back", "will retry")
    # an audit on the way sees index files whose recorded content is made up
    daemon.expect("manifest not written, will retry", "alarm")
    daemon.start()
    for number, step in enumerate(steps):
        player.play([step])
        if number % 5 == 0:
            for pid in _children(daemon.pid):
                os.kill(pid, signal.SIGKILL)
    player.finish()
    assert daemon.logged("rclone ended")
    assert {alarm["problem"] for alarm in daemon.logged("alarm")} <= {"damaged-index"}


def test_no_rclone(daemon: Daemon, tmp_path: Path) -> None:
    """One line that names the key, code 78."""
    daemon.configure(store__rclone__program=str(tmp_path / "none"))
    daemon.start(wait=False)
    assert daemon.wait() == 78
    assert any("store.rclone.program: " in line for line in daemon.announced())


def _children(pid: int) -> list[int]:
    """The rclones of a daemon."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in children if b"rcd" in Path(f"/proc/{each}/cmdline").read_bytes()]
