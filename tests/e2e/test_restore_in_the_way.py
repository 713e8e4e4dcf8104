"""`hookd restore` where something is in its way: what is not seen, not heard, not read, not whole."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import Daemon, contents
from tests.e2e.restores import restore
from tests.fakes.zdb import FakeZdb

pytest_plugins = ["tests.shim_build"]


@pytest.mark.parametrize("what", ["lost", "all but its log", "damaged"])
@pytest.mark.parametrize("take", [False, True])
def test_a_journal_that_is_no_more(daemon: Daemon, lived: FakeZdb, take: bool, what: str) -> None:
    """A command makes a new one as the daemon does: snapshots that no journal knows are kept, as is what
    is left of the old one.
    """
    snapshots = daemon.journal.parent / "staging"
    (snapshots / "0123456789ab-1").mkdir()
    (snapshots / "0123456789ab-1" / "i0").write_bytes(b"nowhere else")
    wal = daemon.journal.with_name(daemon.journal.name + "-wal")
    if what == "damaged":
        daemon.journal.write_bytes(b"damaged" * 1000)
    else:
        daemon.journal.unlink()
    if what == "all but its log":
        wal.write_bytes(b"commits")
    run = restore(daemon, *(["ns", "--take", "remote"] if take else []))
    assert run.returncode == Exit.OK, run.stderr
    assert run.stderr.count("\n") == (what != "lost")
    kept = [path.read_bytes()[:7] for path in daemon.journal.parent.glob("journal.db.corrupt-*")]
    assert kept == {"lost": [], "all but its log": [b"commits"], "damaged": [b"damaged"]}[what]
    daemon.start()
    assert daemon.stop() == Exit.OK
    assert (snapshots / "orphaned" / "0123456789ab-1" / "i0").read_bytes() == b"nowhere else"
    daemon.expect("notice")


@pytest.mark.parametrize("beside", [False, True])
def test_a_zdb_that_cannot_be_seen(daemon: Daemon, lived: FakeZdb, beside: bool) -> None:
    """In another pid namespace, idle since before hookd started: somebody listens where it did, and no
    file is changed under it.
    """
    (daemon.index / "ns" / "i1").unlink()
    before = daemon.local()
    if beside:
        daemon.start()
    with socket.socket(socket.AF_UNIX) as listener:
        Path(lived.id.removeprefix("unix://")).unlink(missing_ok=True)
        listener.bind(lived.id.removeprefix("unix://"))
        listener.listen()
        run = restore(daemon)
        assert run.returncode == Exit.FAILED, run.stdout
        assert f"somebody listens at {lived.id}" in run.stderr
        assert run.stderr.count("\n") == 1
        assert daemon.local() == before
    run = restore(daemon)
    assert run.returncode == Exit.OK, run.stderr
    assert "ns: restored" in run.stdout
    if beside:
        assert daemon.stop() == Exit.OK
        daemon.expect("restoring", "restored")


def test_into_the_folder_of_an_earlier_run(daemon: Daemon, lived: FakeZdb, tmp_path: Path) -> None:
    """What has changed since comes anew, what is gone goes; in a folder of somebody else nothing does."""
    there = tmp_path / "there"
    assert restore(daemon, "--to", str(there)).returncode == Exit.OK
    daemon.start()
    assert lived.start() == 0
    lived.churn("ns", 12)  # i0 and i1 are rewritten
    lived.rotate("ns")
    lived.remove("other")
    lived.stop()
    lived.finish_hooks()
    assert daemon.stop() == Exit.OK
    (there / "data" / "ns" / "d1").write_bytes(b"half of it")
    run = restore(daemon, "--to", str(there))
    assert run.returncode == Exit.OK, run.stderr
    assert "other: left as it is: it is of an earlier run" in run.stdout
    stored = {name: content for name, content in daemon.stored().items() if "/other/" not in name}
    found = contents(there, "index", "data")
    assert {name: found[name] for name in found if "/other/" not in name} == stored
    (there / ".hookd-copy").unlink()
    (there / "data" / "ns" / "d1").write_bytes(b"somebody's")
    run = restore(daemon, "--to", str(there), "--namespace", "ns")
    assert run.returncode == Exit.FAILED
    assert "give another folder" in run.stderr
    assert (there / "data" / "ns" / "d1").read_bytes() == b"somebody's"


def test_not_into_what_is_in_use(daemon: Daemon, lived: FakeZdb, tmp_path: Path) -> None:
    """zdb's own folders by another name, and the store's: a usage error, and nothing changes."""
    (daemon.index / "ns" / "i0").write_bytes(b"older")
    before, stored = daemon.local(), daemon.stored()
    (tmp_path / "link").symlink_to(daemon.folder)
    for folder in (tmp_path / "link", daemon.store, daemon.store / "index" / "ns"):
        run = restore(daemon, "--to", str(folder))
        assert run.returncode == Exit.USAGE, run.stderr
        assert "give another folder" in run.stderr
    assert (daemon.local(), daemon.stored()) == (before, stored)


@pytest.mark.parametrize("where", ["in place", "beside", "to"])
def test_one_that_cannot_be_read(
    daemon: Daemon, lived: FakeZdb, tmp_path: Path, where: str
) -> None:
    """The other one comes; what did not is named, exit 1; done again it comes, too."""
    stored = daemon.stored()
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    bad = daemon.store / "data" / "ns" / "d2"
    content = bad.read_bytes()
    bad.unlink()
    bad.mkdir()
    to = tmp_path / "there" if where == "to" else daemon.folder
    if where == "beside":
        daemon.start()
    words = ["--to", str(to)] if where == "to" else []
    run = restore(daemon, *words)
    assert run.returncode == Exit.FAILED, run.stdout
    assert "other: restored" in run.stdout
    assert "ns: not restored: " in run.stderr
    assert "d2" in run.stderr
    assert {name.split("/")[1] for name in contents(to, "index")} >= {"other"}
    bad.rmdir()
    bad.write_bytes(content)
    run = restore(daemon, *words)
    assert run.returncode == Exit.OK, run.stderr
    assert "ns: restored" in run.stdout
    found = contents(to, "index", "data")
    assert {name: found[name] for name in found} == {name: stored[name] for name in found}
    if where == "beside":
        assert daemon.stop() == Exit.OK
        daemon.expect("restoring", "restored", "store is down")


def test_a_deletion_that_nobody_has_heard_of(daemon: Daemon, lived: FakeZdb) -> None:
    """It lies in the spool: its namespace does not come back. With hookd, which hears it, others do."""
    daemon.start()
    assert lived.start() == 0
    daemon.kill()
    lived.remove("other")
    lived.finish_hooks()
    lived.kill()
    (daemon.index / "ns" / "i1").unlink()
    run = restore(daemon)
    assert run.returncode == Exit.FAILED, run.stdout
    assert run.stderr.count("\n") == 1
    assert "start hookd" in run.stderr
    assert not (daemon.index / "other").exists()
    daemon.start()
    run = restore(daemon)
    assert run.returncode == Exit.OK, run.stderr
    assert "ns: restored" in run.stdout
    assert not (daemon.index / "other").exists()
    assert daemon.stop() == Exit.OK
    daemon.expect("restoring", "restored", "zdb ended without its closing hooks")


@pytest.mark.parametrize("beside", [False, True])
def test_a_data_file_that_is_too_short(daemon: Daemon, lived: FakeZdb, beside: bool) -> None:
    """It becomes whole, with zdb stopped; one that does not begin the stored one stays, and is named."""
    stored = daemon.stored()
    short, other = daemon.data / "ns" / "d0", daemon.data / "other" / "d1"
    short.write_bytes(stored["data/ns/d0"][:40])
    other.write_bytes(b"!" + stored["data/other/d1"][1:40])
    if beside:
        daemon.start()
        assert lived.start() == 0
        assert short.read_bytes() == stored["data/ns/d0"], "mended before zdb loaded it"
        short.write_bytes(stored["data/ns/d0"][:40])
        run = restore(daemon, "--full")
        assert run.returncode == Exit.FAILED, run.stdout
        assert "data/ns/d0 has 40 B here" in run.stderr
        assert "stop zdb" in run.stderr
        assert short.stat().st_size == 40
        lived.stop()
        lived.finish_hooks()
    run = restore(daemon)
    assert run.returncode == Exit.FAILED, run.stdout
    assert "ns: restored (d0, which was too short, is whole)" in run.stdout
    assert "other: not restored: data/other/d1 has 40 B here" in run.stderr
    assert "neither is touched" in run.stderr
    assert short.read_bytes() == stored["data/ns/d0"]
    assert other.read_bytes() == b"!" + stored["data/other/d1"][1:40]
    assert not list(daemon.data.glob("*/.hookd-restore"))
    if beside:
        daemon.stop()
        daemon.expect("a data file was too short", "a data file is too short")


@pytest.mark.parametrize("beside", [False, True])
def test_complete_with_the_store_away(daemon: Daemon, lived: FakeZdb, beside: bool) -> None:
    """Nothing was compared with it: 69."""
    if beside:
        daemon.start()
        daemon.expect("store is down")
    before = daemon.local()
    daemon.store.rename(daemon.folder / "away")
    run = restore(daemon)
    assert run.returncode == Exit.UNAVAILABLE, run.stdout + run.stderr
    assert run.stderr.count("\n") == 1
    assert "complete" not in run.stdout
    assert daemon.local() == before
    (daemon.folder / "away").rename(daemon.store)
    assert restore(daemon).returncode == Exit.OK
    if beside:
        assert daemon.stop() == Exit.OK


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ["a", "--namespace", "b", "--take", "remote"],
        ["a/b", "--take", "local"],
        ["..", "--take", "local"],
        ["", "--take", "local"],
        ["--take", "remote", "--to", "nowhere"],
        ["--take", "remote", "--full"],
        ["--namespace", ""],
    ],
)
def test_words_that_make_no_sense_together(daemon: Daemon, words: list[str], beside: bool) -> None:
    """A usage error; nothing is chosen, nothing restored."""
    if beside:
        daemon.start()
    run = restore(daemon, *words)
    assert run.returncode == Exit.USAGE, run.stdout
    assert run.stderr.count("\n") == 1
    if beside:
        assert daemon.stop() == Exit.OK
        assert daemon.rows("SELECT * FROM meta WHERE key = 'takes'") == []
