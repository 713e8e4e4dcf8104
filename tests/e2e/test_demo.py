"""`hookd demo`: it shows what is so, and it fails when it is not."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hookd.demo import check, run
from hookd.demo.screen import Screen
from hookd.demo.trace import Step
from hookd.demo.trace_act import SKIPPED, TraceAct
from hookd.errors import Exit
from tests.e2e.daemon import REPOSITORY

pytest_plugins = ["tests.shim_build", "tests.e2e.recorded"]

WITHIN_S = 60


def demo(shim: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as a person does, with `tmp_path` for temporary files."""
    environment = {
        **os.environ,
        "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
    }
    return subprocess.run(
        [sys.executable, "-m", "hookd", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        cwd=REPOSITORY,
        env=environment,
        check=False,
    )


def cells(output: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    [line] = [line for line in output.splitlines() if line.strip().startswith(f"{first}  ")]
    return re.split(r"\s{2,}", line.strip())


def test_shows_what_it_measured(shim: Path, tmp_path: Path, steps: list[Step]) -> None:
    """Exit 0, every number of the tables as the record has it, nothing left behind."""
    done = demo(shim, tmp_path, "--quick")
    assert done.returncode == Exit.OK, done.stdout + done.stderr
    assert not done.stderr
    assert "\x1b" not in done.stdout
    assert "FAILED" not in done.stdout
    files = {path for step in steps for path in step.files if not path.endswith("/.lockfile")}
    spaces = {path.split("/")[2] for path in files} - set(SKIPPED)
    assert spaces
    total = 0
    for name in spaces:
        count = sum(path.split("/")[2] == name for path in files)
        total += count
        _, announced, stored, _, verified = cells(done.stdout, name)
        assert (announced, stored, verified) == (str(count), str(count), f"{count} of {count}")
    assert cells(done.stdout, "all")[4] == f"{total} of {total}"
    for name in SKIPPED:
        assert f"  {name} " not in done.stdout
    _, events, socket, spool, twice, _ = cells(done.stdout, "A recorded zdb")
    assert int(events) == len(steps) == int(socket) + int(spool)
    assert int(spool) > 0
    assert int(twice) == 1
    for mishap in ("the store was away", "kill -9 of hookd", "delivered twice", "were removed"):
        assert mishap in done.stdout
    assert re.search(r"^All \d+ checks hold; \d+\.\d s\.$", done.stdout, re.MULTILINE)
    assert not list(tmp_path.glob("hookd-demo-*"))


def test_fails_when_the_store_is_not_right(
    shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stored file with one other bit, one that is gone, one too many: each has its line."""
    verify = TraceAct.verify

    def sabotaged(act: TraceAct) -> None:
        store = act.stage.store
        raw = bytearray((store / "data/zdbfs-data/d3").read_bytes())
        raw[1000] ^= 1
        (store / "data/zdbfs-data/d3").write_bytes(raw)
        (store / "index/zdbfs-data/i2").unlink()
        (store / "index/zdbfs-data/i99").write_bytes(b"whatever")
        verify(act)

    monkeypatch.setattr(TraceAct, "verify", sabotaged)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(REPOSITORY)
    folder = tmp_path / "demo"
    code = run.main(argparse.Namespace(dir=folder, keep=False, quick=True, no_color=True))
    assert code == Exit.FAILED
    output = capsys.readouterr().out
    broken = [line.strip() for line in output.splitlines() if line.startswith("  A recorded zdb:")]
    assert broken == [
        "A recorded zdb: data/zdbfs-data/d3 in the store is not what zdb has",
        "A recorded zdb: index/zdbfs-data/i2 is not in the store",
        "A recorded zdb: index/zdbfs-data/i99 is in the store, but zdb has no such file",
        "A recorded zdb: announced, but not stored: index/zdbfs-data/i2",
    ]
    assert re.search(r"FAILED\s+everything in the store is compared", output)
    assert f"{len(broken)} checks of " in output
    assert (folder / "act1" / "hookd.log").exists()


def test_folder_that_is_not_empty(shim: Path, tmp_path: Path) -> None:
    """The demo removes what it made: it does not begin where somebody else's files are."""
    (tmp_path / "mine").write_text("precious")
    done = demo(shim, tmp_path, "--dir", str(tmp_path))
    assert done.returncode == Exit.USAGE
    [line] = done.stderr.splitlines()
    assert line.startswith(f"hookd: --dir: {tmp_path} has files in it")
    assert (tmp_path / "mine").read_text() == "precious"


def test_without_a_zdb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says that the second act is left out."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert [title for title, _ in run.acts(Screen(color=False), quick=False)] == ["A recorded zdb"]
    assert "no zdb on PATH" in capsys.readouterr().out


def test_what_grew_keeps_its_beginning(steps: list[Step]) -> None:
    """zdb appends to data files: so do the contents that the demo makes up for the record."""
    last: dict[str, bytes] = {}
    grown = 0
    for step in steps:
        for path, content in step.files.items():
            if path.startswith("/data/"):
                now = content.read()
                assert len(now) == content.size_bytes
                assert now.startswith(last.get(path, b""))
                grown += path in last and len(now) > len(last[path])
                last[path] = now
    assert grown > 10


def test_files_that_hooks_name() -> None:
    """By path, by number, and the descriptor of what was made and not deleted again."""
    calls = [
        ["jump-index", "z", "/index/a/i4", "/index/a/i5", "0 3"],
        ["jump-data", "z", "/data/a/d4", "/data/a/d5"],
        ["namespace-deleted", "z", "b"],
        ["namespace-created", "z", "b"],
        ["namespace-closing", "z", "c", "/index/c/i0", "/data/c/d0", ""],
        ["close", "z"],
    ]
    assert check.announced_files(calls) == {
        *("index/a/i4", "index/a/i0", "index/a/i3", "data/a/d4"),
        *("index/c/i0", "data/c/d0", "index/c/zdb-namespace"),
    }
