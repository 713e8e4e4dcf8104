"""All of it real at once: zdb calls the shim, the daemon stores through zstor, a second zdb serves.

What was stored is fetched with zstor's own command line: nothing of hookd has a part in the proof.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.demo.trace import Step
from hookd.errors import Exit
from tests.e2e.daemon import Daemon, contents
from tests.e2e.player import Player
from tests.real.grid import Grid, missing_programs
from tests.real.world import NO_CLOSING, TERMINATED, World, sealed

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
pytest_plugins = ["tests.shim_build", "tests.e2e.recorded"]

WITHIN_S = 60.0
SHORT_S = "2"
"""How long shims try a daemon that may be dead."""

DOWN = ("store is down", "store is back", "zstor died while it wrote metadata")
"""What a zstor that is killed leaves in the log."""


@pytest.fixture(params=["zstor", "zstor-0.4.0"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Grid]:
    """A zstor of either version on four zdbs."""
    if missing := missing_programs(request.param):
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    with Grid(tmp_path / "grid", zstor=request.param) as made:
        yield made


@pytest.fixture
def daemon(shim: Path, tmp_path: Path, grid: Grid) -> Iterator[Daemon]:
    """A daemon that stores through this zstor, not started."""
    settings = {
        "store.kind": "zstor",
        "store.directory.path": None,
        "store.zstor.config": str(grid.config),
    }
    made = Daemon(tmp_path, shim, settings=settings)
    yield made
    made.close()
    log = made.log.read_text()
    assert not [secret for secret in grid.secrets if secret in log]


@pytest.fixture
def world(daemon: Daemon, shim: Path) -> Iterator[World]:
    made = World(daemon, shim)
    yield made
    if made.zdb is not None:
        made.zdb.close()


def zstor(grid: Grid, *command: str) -> str:
    """What zstor's command line says; it must succeed."""
    done = subprocess.run(
        [
            grid.program,
            "-c",
            str(grid.config),
            "--log_file",
            str(grid.folder / "cli.log"),
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def retrieved(grid: Grid, daemon: Daemon, skip: str = "zdbfs-temp") -> dict[str, bytes]:
    """zdb's files as zstor gives them back, in the place of the local ones, which are moved away.

    zstor cannot list, so it is asked for each file that is here.
    """
    names = [name for name in daemon.local() if name.split("/")[1] != skip]
    for root in (daemon.index, daemon.data):
        root.rename(root.with_name(f"{root.name}.local"))
    for name in names:
        zstor(grid, "retrieve", "--file", str(daemon.folder / name))
    return contents(daemon.folder, "index", "data")


def test_whole_life(world: World, grid: Grid) -> None:
    """Updates, deletes, rotations; zstor, the daemon and zdb die; at the end all of it is remote."""
    daemon = world.daemon
    daemon.expect(*DOWN, NO_CLOSING, "will retry")
    daemon.start()
    zdb = world.start(patience_s=SHORT_S)
    world.create("users", "user")
    world.create("numbers", "seq")
    world.write("users", 40)
    world.write("numbers", 30)
    assert len(sealed(daemon, "users")) >= 3
    daemon.until(lambda s: s["totals"]["settled_files"] >= 3)

    grid.stop_zstor(kill=True)
    world.write("users", 30)
    zdb.client.ask("NSJUMP")
    world.write("numbers", 30)
    assert not world.wrong(zdb)
    daemon.until(lambda s: s["store"]["state"] == "down" and s["queue"]["files"] >= 5)

    daemon.kill()
    world.write("users", 20)
    zdb.client.ask("NSJUMP")
    assert list(daemon.spool.glob("*.event"))
    daemon.start()
    world.write("numbers", 10)
    grid.start_zstor()
    daemon.until(lambda s: s["store"]["state"] == "up" and not s["spool"]["waiting"])
    evict(world, grid)
    assert not world.wrong(zdb)

    assert zdb.stop() == TERMINATED
    zdb = world.start(patience_s=SHORT_S)
    world.write("users", 20)
    zdb.close()  # kill -9
    zdb = world.start(patience_s=SHORT_S)
    assert not world.wrong(zdb)
    world.write("numbers", 20)

    daemon.send_signal()
    daemon.until(lambda s: s["drain"] and "zdb" in s["drain"]["waiting_for"])
    world.write("users", 10)
    assert zdb.stop() == TERMINATED
    assert daemon.wait(WITHIN_S) == Exit.OK
    local = daemon.local()
    assert retrieved(grid, daemon) == local
    world.check_files(daemon.folder)


def evict(world: World, grid: Grid) -> None:
    """Remove a sealed data file that zstor has: the next GET asks it back."""
    [path, *_] = sealed(world.daemon, "users")
    wait_until(lambda: bool(zstor(grid, "check", "--file", str(path)).strip()))
    content = path.read_bytes()
    path.unlink()
    assert world.zdb is not None
    assert not world.wrong(world.zdb)
    assert path.read_bytes() == content
    assert world.daemon.stats()["retrieve"]["failed"] == 0


def wait_until(holds: Callable[[], bool]) -> None:
    """Until it holds; bounded."""
    ends = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)


class OnZstor(Player):
    """Plays to a daemon that stores through zstor."""

    grid: Grid

    def is_stored(self, name: str) -> bool:
        path = self.daemon.folder / name
        return bool(zstor(self.grid, "check", "--file", str(path)).strip())

    def stored(self) -> dict[str, bytes]:
        # what was evicted and not asked back is not here, but must be there
        for path in self.replay.away:
            self.replay.real(path).touch()
        return retrieved(self.grid, self.daemon)


def test_recorded_life(
    daemon: Daemon, grid: Grid, steps: list[Step], listener: tuple[str, Callable[[], None]]
) -> None:
    """The record, with zstor away for a third of it: every hook as recorded, every file in zstor."""
    # what the record's files held is made up: to the audit they are no index files
    daemon.expect(*DOWN, "will retry", "alarm")
    daemon.start()
    player = OnZstor(daemon, listener)
    player.grid = grid
    vanishes = [
        n for n in range(len(steps)) if n and steps[n - 1].files.keys() - steps[n].files.keys()
    ]
    begin = vanishes[0] // 3
    player.play(steps[:begin])
    grid.stop_zstor(kill=True)
    player.play(steps[begin : 2 * begin])
    grid.start_zstor()
    player.play(steps[2 * begin :])
    assert player.codes == {step.number: step.exit for step in steps}
    player.finish()
    assert len(daemon.logged("retrieved")) == sum(bool(step.asked_back) for step in steps) > 0
