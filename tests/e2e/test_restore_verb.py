"""`hookd restore` without a daemon: into a folder, in place, refused; its lines and exit codes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import REPOSITORY, Daemon, contents
from tests.fakes.zdb import FakeZdb
from tests.fakes.zdb_files import answers

pytest_plugins = ["tests.shim_build"]

NAMES = ("ns", "other")


def restore(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the verb."""
    command = [sys.executable, "-m", "hookd", "restore", *arguments, "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


@pytest.fixture
def lived(daemon: Daemon, zdb: FakeZdb) -> FakeZdb:
    """Two namespaces, all stored; daemon and zdb have ended."""
    daemon.start()
    assert zdb.start() == 0
    for name in NAMES:
        zdb.create(name)
        for _ in range(2):
            zdb.churn(name, 6)
            zdb.rotate(name)
        zdb.churn(name, 2)
    zdb.finish_hooks()  # on a busy machine an earlier one could come after the closing ones
    zdb.stop()
    zdb.finish_hooks()
    assert daemon.stop() == Exit.OK
    return zdb


def wipe(daemon: Daemon) -> None:
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    shutil.rmtree(daemon.journal.parent)


@pytest.mark.parametrize("beside", [False, True])
def test_into_a_folder(daemon: Daemon, lived: FakeZdb, tmp_path: Path, beside: bool) -> None:
    """Everything comes, whoever runs; done again it goes on; nothing else is touched."""
    if beside:
        daemon.start()
        assert lived.start() == 0
    before, local = daemon.stored(), daemon.local()
    for _ in range(2):
        run = restore(daemon, "--to", str(tmp_path / "there"))
        assert run.returncode == Exit.OK, run.stderr
        assert "ns: restored" in run.stdout
    found = contents(tmp_path / "there", "index", "data")
    assert found == before
    assert (daemon.stored(), daemon.local()) == (before, local)
    one = restore(daemon, "--to", str(tmp_path / "one"), "--namespace", "ns", "--json")
    assert list(json.loads(one.stdout)["restored"]) == ["ns"]
    assert {path.name for path in (tmp_path / "one" / "index").iterdir()} == {"ns"}
    none = restore(daemon, "--to", str(tmp_path / "none"), "--namespace", "nobody")
    assert none.returncode == Exit.FAILED
    assert "no files of it" in none.stderr
    own = restore(daemon, "--to", str(daemon.folder))
    assert own.returncode == Exit.USAGE
    if beside:
        lived.stop()
        lived.finish_hooks()
        assert daemon.stop() == Exit.OK


@pytest.mark.parametrize("full", [False, True])
def test_in_place(daemon: Daemon, lived: FakeZdb, full: bool) -> None:
    """With zdb and hookd stopped all is there for zdb's next start, or all but old data files."""
    stored = daemon.stored()
    wipe(daemon)
    run = restore(daemon, *(["--full"] if full else []))
    assert run.returncode == Exit.OK, run.stderr
    local = daemon.local()
    assert [name for name in local if local[name] != stored[name]] == []
    if full:
        told = answers(daemon.index, daemon.data)
        assert {name: keys for name, keys in told.items() if keys} == lived.truth
    else:
        assert "data/ns/d0" not in local
        assert "data/ns/d2" in local
    again = restore(daemon)
    assert again.returncode == Exit.OK
    assert "ns: complete" in again.stdout
    daemon.start()
    assert lived.start() == 0
    for name in NAMES:
        for key, value in lived.truth[name].items():
            assert lived.get(name, key) == value
    lived.stop()
    lived.finish_hooks()
    assert daemon.stop() == Exit.OK


@pytest.mark.parametrize("beside", [False, True])
def test_one_namespace_in_place(daemon: Daemon, lived: FakeZdb, beside: bool) -> None:
    """Only that one comes, with hookd stopped or `beside` it; the other one with zdb's next start."""
    stored = daemon.stored()
    wipe(daemon)
    if beside:
        daemon.start()
    run = restore(daemon, "--namespace", "other")
    assert run.returncode == Exit.OK, run.stderr
    assert "other: restored" in run.stdout
    assert "ns: left as it is" in run.stdout
    local = daemon.local()
    assert {name.split("/")[1] for name in local} == {"other"}
    assert [name for name in local if local[name] != stored[name]] == []
    again = restore(daemon, "--namespace", "other", "--full", "--json")
    assert list(json.loads(again.stdout)["restored"]) == ["other"]
    assert {name for name in daemon.local() if "/other/" in name} == {
        name for name in stored if "/other/" in name
    }
    if not beside:
        daemon.start()
    assert lived.start() == 0
    for name in NAMES:
        for key, value in lived.truth[name].items():
            assert lived.get(name, key) == value
    lived.stop()
    lived.finish_hooks()
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == stored
    daemon.expect("restoring", "restored", "held")


def test_all_data_files_beside_a_running_zdb(daemon: Daemon, lived: FakeZdb) -> None:
    """`--full` brings what zdb has not asked for; anything else is refused in a line."""
    stored = daemon.stored()
    wipe(daemon)
    daemon.start()
    assert lived.start() == 0
    assert "data/ns/d0" not in daemon.local()
    for arguments in ([], ["--namespace", "ns"], ["--namespace", "nobody"]):
        run = restore(daemon, *arguments)
        assert run.returncode == Exit.FAILED
        assert "zdb runs" in run.stderr
        assert run.stderr.count("\n") == 1
    run = restore(daemon, "--full", "--namespace", "ns")
    assert run.returncode == Exit.OK, run.stderr
    assert "ns: restored (2 data files" in run.stdout
    run = restore(daemon, "--full")
    assert run.returncode == Exit.OK, run.stderr
    assert {name for name in stored if name.startswith("data/")} <= daemon.local().keys()
    assert restore(daemon, "--full").stdout.count(": complete\n") == 3
    lived.stop()
    lived.finish_hooks()
    assert daemon.stop() == Exit.OK
    daemon.expect("restoring", "restored")


def test_refused_while_something_runs(daemon: Daemon, lived: FakeZdb) -> None:
    """In place zdb must not run, and it says what to do."""
    daemon.start()
    assert lived.start() == 0
    daemon.kill()
    run = restore(daemon)
    assert run.returncode != 0
    assert "zdb runs" in run.stderr
    lived.kill()
    daemon.expect("zdb ended without its closing hooks")


def test_a_store_that_is_away(daemon: Daemon, lived: FakeZdb, tmp_path: Path) -> None:
    """69, one line, and nothing was made."""
    wipe(daemon)
    daemon.store.rename(tmp_path / "away")
    for arguments in (["--to", str(tmp_path / "there")],):
        run = restore(daemon, *arguments)
        assert run.returncode == Exit.UNAVAILABLE, run.stderr
        assert run.stderr.count("\n") == 1
    assert daemon.local() == {}


@pytest.mark.parametrize(
    ("instead", "new"),
    [
        ("nothing", False),
        ("nothing", True),
        ("empty", False),
        ("empty", True),
        ("bare", False),  # below the mount point somebody made folders by hand
        ("another", False),  # with a new journal nothing tells it from the right one
    ],
)
def test_a_store_that_is_not_mounted(
    daemon: Daemon, lived: FakeZdb, tmp_path: Path, instead: str, new: bool
) -> None:
    """In place: 69, one line, nothing made of what lies there; mounted again all comes back, and the
    daemon does not find another's name. `new`: the journal is lost, too.
    """
    stored = daemon.stored()
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    if new:
        shutil.rmtree(daemon.journal.parent)
    daemon.store.rename(tmp_path / "away")
    if instead != "nothing":
        daemon.store.mkdir()
    if instead in ("bare", "another"):
        (daemon.store / "index").mkdir()
    if instead == "another":
        shutil.copytree(tmp_path / "away" / ".hookd", daemon.store / ".hookd")
        (daemon.store / ".hookd" / "manifest.json").unlink()
        (daemon.store / ".hookd" / "store-id").write_text("0" * 32)
        (daemon.store / ".hookd" / "tmp" / "d5.inflight").write_text("somebody is at it")
    before = sorted(daemon.store.rglob("*"))
    run = restore(daemon)
    assert run.returncode == Exit.UNAVAILABLE, run.stdout + run.stderr
    assert run.stderr.count("\n") == 1
    assert "mount" in run.stderr
    assert sorted(daemon.store.rglob("*")) == before
    assert daemon.local() == {}
    if instead != "nothing":
        shutil.rmtree(daemon.store)
    (tmp_path / "away").rename(daemon.store)
    run = restore(daemon, "--full")
    assert run.returncode == Exit.OK, run.stderr
    assert daemon.local() == stored
    daemon.start()
    assert lived.start() == 0
    assert daemon.stats()["fence"]["fenced"] is None
    lived.stop()
    lived.finish_hooks()
    assert daemon.stop() == Exit.OK


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
        daemon.expect("a data file was too short")
