"""Setting files aside: whatever was set aside before stays as it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hookd.files import Roots
from hookd.restore import aside
from tests.conftest import Logs
from tests.fakes.survey_files import NS, files_of, zdb_at


@pytest.fixture
def roots(tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """Of a zdb whose files are all set aside in one second."""
    logs.allow("set aside")
    zdb_at(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20261201T000000Z")
    return Roots(tmp_path / "index", tmp_path / "data")


def kept(folder: Path) -> list[bytes]:
    """Contents of all that was set aside."""
    return [
        path.read_bytes()
        for path in folder.glob(f"*/{NS}/{aside.PREFIX}*/*")
        if path.name != "zdb-namespace"
    ]


def test_twice_in_a_second(tmp_path: Path, roots: Roots) -> None:
    """Neither goes over the other."""
    first = files_of(tmp_path)
    aside.set_aside(roots, NS)
    for key in first:
        roots.path(key).write_bytes(b"what came back " + str(key).encode())
    second = files_of(tmp_path)
    places = aside.set_aside(roots, NS)
    assert [Path(place).name for place in places] == [".hookd-aside-20261201T000000Z-2"] * 2
    wanted = [*first.items(), *second.items()]
    assert sorted(kept(tmp_path)) == sorted(
        content for key, content in wanted if key.name != "zdb-namespace"
    )
    assert files_of(tmp_path) == {}


def test_killed_between_two(tmp_path: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was moved stays, and the rest comes beside it, whatever zdb has made meanwhile."""
    before = files_of(tmp_path)
    rename, moved = os.rename, 0

    def killed(source: Any, target: Any) -> None:
        nonlocal moved
        moved += 1
        if moved == 4:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        aside.set_aside(roots, NS)
    monkeypatch.setattr(os, "rename", rename)
    gone = [key for key in before if not roots.path(key).exists()]
    assert gone
    for key in gone:
        roots.path(key).write_bytes(b"made by zdb " + str(key).encode())
    aside.set_aside(roots, NS)
    contents = kept(tmp_path)
    assert all(each in contents for key, each in before.items() if key.name != "zdb-namespace")
