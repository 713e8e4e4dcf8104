"""Data files that a machine has lost, whole or their ends, before they were stored."""

from __future__ import annotations

from tests.e2e.daemon import ZDB, Daemon
from tests.e2e.restores import restore, wipe
from tests.fakes.audits import data_bytes, index_bytes

pytest_plugins = ["tests.shim_build"]


def make(daemon: Daemon, files: int) -> None:
    """A namespace with so many index and data files."""
    for root in (daemon.index, daemon.data):
        (root / "ns").mkdir()
    for number in range(files):
        (daemon.index / f"ns/i{number}").write_bytes(index_bytes(number))
        (daemon.data / f"ns/d{number}").write_bytes(data_bytes(number))


def rotate(daemon: Daemon, files: int) -> None:
    """The hooks of all but the newest."""
    for number in range(files - 1):
        index, data = daemon.index / "ns", daemon.data / "ns"
        daemon.hook("jump-index", ZDB, f"{index}/i{number}", f"{index}/i{number + 1}", "")
        daemon.hook("jump-data", ZDB, f"{data}/d{number}", f"{data}/d{number + 1}")


def close(daemon: Daemon, newest: int) -> None:
    """zdb stops."""
    index, data = daemon.index / f"ns/i{newest}", daemon.data / f"ns/d{newest}"
    daemon.hook("namespace-closing", ZDB, "ns", str(index), str(data), "")


def test_the_end_of_a_file(daemon: Daemon) -> None:
    """A crash of the machine took the last value of d1, not its entry: all the rest is stored, i1 too,
    without which nothing of the newer files is served; and it is said.
    """
    daemon.expect("a data file has lost values at its end")
    make(daemon, 3)
    (daemon.data / "ns/d1").write_bytes(data_bytes(1)[:-20])
    daemon.start()
    rotate(daemon, 3)
    close(daemon, 2)
    assert daemon.stop() == 0
    assert daemon.stored() == daemon.local()
    assert len(daemon.logged("a data file has lost values at its end")) == 1
    comes_back(daemon, "d1")


def test_after_the_snapshot(daemon: Daemon) -> None:
    """The crash comes when i1 is frozen already, and d1 not on disk yet."""
    daemon.expect("a data file has lost values at its end", "paused")
    make(daemon, 3)
    daemon.start()
    daemon.ask("pause")
    rotate(daemon, 3)
    daemon.kill()
    (daemon.data / "ns/d1").write_bytes(data_bytes(1)[:-20])
    daemon.start()
    close(daemon, 2)
    assert daemon.stop() == 0
    assert daemon.stored() == daemon.local()
    assert daemon.logged("a data file has lost values at its end")


def test_a_whole_file(daemon: Daemon) -> None:
    """While it is owed the store has an older whole; given up, all the others, and no other hole."""
    daemon.expect("will retry", "quarantined", "skipped", "withdrawn", "paused")
    daemon.start()
    daemon.ask("pause")
    make(daemon, 5)  # not before: the scan of the start would store some
    rotate(daemon, 5)
    (daemon.data / "ns/d2").unlink()
    daemon.ask("resume")
    daemon.until(lambda s: s["queue"]["states"].get("quarantined", {}).get("files"))
    daemon.until(lambda s: "index/ns/i1" in daemon.stored())
    assert {"index/ns/i2", "index/ns/i3"}.isdisjoint(daemon.stored())
    assert "given up" in daemon.ask("skip data/ns/d2")
    daemon.until_stored()
    close(daemon, 4)
    assert daemon.stop() == 0
    assert daemon.stored() == daemon.local()
    comes_back(daemon, "d2")


def comes_back(daemon: Daemon, lost: str) -> None:
    """On a new machine, and in a folder: all but the values that were lost before they were stored."""
    daemon.expect("restoring", "restored", "some values were lost before it was stored")
    daemon.expect("zdb ended without its closing hooks")
    before, there = daemon.local(), daemon.index.parent / "there"
    copied = restore(daemon, "--to", str(there))
    assert copied.returncode == 0, copied.stdout + copied.stderr
    assert f"some values in {lost} were lost before it was stored" in copied.stdout
    assert {path.name for path in there.glob("*/ns/[id]*")} == {
        key.rpartition("/")[2] for key in before
    }
    wipe(daemon)
    daemon.start()
    assert daemon.hook("namespaces-init", ZDB, str(daemon.index), str(daemon.data)).code == 0
    assert daemon.hook("ready", ZDB).code == 0
    index, active = {k for k in before if k.startswith("index")}, f"data/ns/{max(numbers(before))}"
    assert {*daemon.local()} == index | {active}
    assert daemon.stop() == 0
    back = restore(daemon, "--full")
    assert back.returncode == 0, back.stdout + back.stderr
    assert daemon.local() == before


def numbers(files: dict[str, bytes]) -> list[str]:
    """The names of the data files."""
    return [key.rpartition("/")[2] for key in files if key.startswith("data")]


def test_that_nobody_announced(daemon: Daemon) -> None:
    """A data file is gone, and its hook never came: the newer indexes wait for the one that points into
    it, instead of being stored without it.
    """
    daemon.expect("alarm")  # of the audit, if it comes that far
    make(daemon, 4)
    (daemon.data / "ns/d1").unlink()
    daemon.start()
    index, data = daemon.index / "ns", daemon.data / "ns"
    for number in range(3):
        daemon.hook("jump-index", ZDB, f"{index}/i{number}", f"{index}/i{number + 1}", "")
        if number != 1:
            daemon.hook("jump-data", ZDB, f"{data}/d{number}", f"{data}/d{number + 1}")
    close(daemon, 3)
    assert daemon.stop() == 75
    assert {key for key in daemon.stored() if key.startswith("index")} == {"index/ns/i0"}


def test_a_skip_lasts(daemon: Daemon) -> None:
    """A file that is still on disk was given up: stops end with 0, until it is another one."""
    daemon.expect("will retry", "quarantined", "skipped", "withdrawn", "alarm", "refused")
    make(daemon, 3)
    bad = daemon.data / "ns/d1"
    bad.unlink()
    bad.symlink_to("/etc/hostname")
    daemon.start()
    rotate(daemon, 3)
    daemon.until(lambda s: s["queue"]["states"].get("quarantined", {}).get("files"))
    daemon.ask("skip data/ns/d1")
    close(daemon, 2)
    assert daemon.stop() == 0
    assert "index/ns/i2" in daemon.stored()
    daemon.start()
    assert daemon.stop() == 0
    daemon.start()
    assert "in line again" in daemon.ask("retry data/ns/d1")
    daemon.until(lambda s: s["queue"]["states"].get("quarantined", {}).get("files"))
    assert "given up" in daemon.ask("skip data/ns/d1")
    bad.unlink()
    bad.write_bytes(data_bytes(1))
    assert daemon.stop() == 0
    assert daemon.stored() == daemon.local()
