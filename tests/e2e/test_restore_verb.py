"""`hookd restore` without a daemon: into a folder, in place, refused; its lines and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import Daemon, contents
from tests.e2e.restores import NAMES, restore, wipe
from tests.fakes.zdb import FakeZdb
from tests.fakes.zdb_files import answers

pytest_plugins = ["tests.shim_build"]


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


def test_into_a_folder_where_no_zdb_is(daemon: Daemon, lived: FakeZdb, tmp_path: Path) -> None:
    """To look at it the configuration is enough; in place the roots have to be there."""
    stored = daemon.stored()
    wipe(daemon)
    daemon.index.rmdir()
    daemon.data.rmdir()
    run = restore(daemon, "--to", str(tmp_path / "there"))
    assert run.returncode == Exit.OK, run.stderr
    assert contents(tmp_path / "there", "index", "data") == stored
    assert not daemon.index.exists()
    in_place = restore(daemon)
    assert in_place.returncode == Exit.CONFIG
    assert "mount or create it first" in in_place.stderr


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
