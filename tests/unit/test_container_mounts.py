"""What mountinfo says, and the two things that are done about it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.cli import main
from hookd.container import mounts, services
from hookd.errors import Exit, UserError

TABLE = """\
22 1 0:20 / / rw,relatime - overlay overlay rw
40 22 8:1 /srv/qsfs /mnt rw,relatime shared:7 master:2 - ext4 /dev/sda1 rw
41 40 0:50 / /mnt rw,nosuid - fuse.zdbfs zdbfs rw,user_id=0
42 22 0:51 / /a\\040b rw - tmpfs none rw
43 22 8:1 /var/lib/docker/volumes/x/_data /data rw - ext4 /dev/sda1 rw
"""


def test_the_uppermost_counts() -> None:
    found = mounts.top(Path("/mnt"), TABLE)
    assert found is not None
    assert found.kind == "fuse.zdbfs"
    assert mounts.is_fuse(found)
    assert not found.shared


def test_names_and_roots() -> None:
    assert [m.point for m in mounts.mounts(TABLE)] == ["/", "/mnt", "/mnt", "/a b", "/data"]
    assert mounts.mounts(TABLE)[1].shared
    volume = mounts.top(Path("/data"), TABLE)
    assert volume is not None
    assert volume.root == "/var/lib/docker/volumes/x/_data"
    assert not mounts.is_fuse(volume)


def test_nothing_there() -> None:
    assert mounts.top(Path("/elsewhere"), TABLE) is None
    assert not mounts.is_fuse(None)


def test_a_guarded_folder_takes_no_files(tmp_path: Path) -> None:
    """Until something is mounted on top; guarded once, never twice."""
    if (error := mounts.may_mount()) is not None:
        pytest.skip(f"may not mount here: {error}")
    point = tmp_path / "mnt"
    point.mkdir()
    assert mounts.guard(point)
    try:
        with pytest.raises(OSError, match="Read-only"):
            (point / "file").write_bytes(b"lost")
        assert not mounts.guard(point)
        assert mounts.detach_dead(point) == 0
        assert mounts.is_guard(mounts.top(point))
    finally:
        assert mounts.unguard(point) == 1
    assert mounts.top(point) is None
    assert mounts.unguard(point) == 0
    (point / "file").write_bytes(b"taken")


def test_a_guard_goes_on_top_of_what_is_mounted_there(may_mount: None, tmp_path: Path) -> None:
    """A folder that is itself a mount, as the one that docker binds: it takes no files either."""
    with bound(tmp_path / "shared", tmp_path / "shared") as point:
        assert mounts.guard(point)
        with pytest.raises(OSError, match="Read-only"):
            (point / "file").write_bytes(b"lost")
        assert mounts.unguard(point) == 1
        (point / "file").write_bytes(b"taken")


def test_a_guard_propagates_as_the_mount_on_it_does(may_mount: None, tmp_path: Path) -> None:
    """What is shared is guarded for its peers too, and is given back to them."""
    shared = tmp_path / "shared"
    with (
        bound(shared, shared, "--make-shared") as point,
        bound(shared, tmp_path / "peer") as peer,
    ):
        (point / "fs").mkdir()
        assert mounts.guard(point / "fs")
        with pytest.raises(OSError, match="Read-only"):
            (peer / "fs" / "file").write_bytes(b"lost")
        assert mounts.unguard(point / "fs") == 1
        (peer / "fs" / "file").write_bytes(b"taken")


def test_the_verb(may_mount: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards a folder that need not be there, twice as well as once, and gives it back.

    What lies in it is told of, and stays.
    """
    point = tmp_path / "mnt" / "fs"
    for _ in range(2):
        assert main(["guard", str(point)]) == 0
    with pytest.raises(OSError, match="Read-only"):
        (point / "file").write_bytes(b"lost")
    assert main(["guard", str(point), "--remove"]) == 0
    assert mounts.top(point) is None
    assert capsys.readouterr().out == ""
    (point / "file").write_bytes(b"outside")
    assert main(["guard", str(point)]) == 0
    assert "is not empty" in capsys.readouterr().out
    for _ in range(2):
        assert main(["guard", str(point), "--remove"]) == 0
    assert (point / "file").read_bytes() == b"outside"


class Stack:
    """FUSE mounts at one folder, the uppermost last: `alive`, `dead`, `hangs`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *layers: str) -> None:
        self.layers = list(layers)
        monkeypatch.setattr(mounts, "top", lambda _: self.top())
        monkeypatch.setattr(mounts, "_umount", lambda _: self.layers.pop())
        looks = {
            "alive": "pass",
            "refuses": "import sys; sys.exit(13)",
            "dead": "import sys; sys.exit(107)",
            "hangs": "import time; time.sleep(60)",
        }
        real = mounts.look

        def look(point: Path, within_s: float) -> mounts.Life:
            monkeypatch.setattr(mounts, "_LOOK", looks[self.layers[-1]])
            return real(point, 3 if self.layers[-1] != "hangs" else 0.1)

        monkeypatch.setattr(mounts, "look", look)

    def top(self) -> mounts.Mount | None:
        return mounts.mounts(TABLE)[2] if self.layers else None


def test_what_lives() -> None:
    assert mounts.look(Path("/")) is mounts.Life.ALIVE
    assert mounts.look(Path("/nowhere")) is mounts.Life.ALIVE  # an answer, too


@pytest.mark.parametrize(
    ("layers", "left", "why"),
    [
        (["dead"], [], ""),
        (["dead", "dead"], [], ""),
        (["alive"], ["alive"], "is mounted there and alive"),
        (["refuses"], ["refuses"], "is mounted there and alive"),
        (["alive", "dead"], ["alive"], "is mounted there and alive"),
        (["dead", "alive"], ["dead", "alive"], "is mounted there and alive"),
        (["hangs"], ["hangs"], "has not answered for .* may be alive"),
        (["hangs", "dead"], ["hangs"], "has not answered for .* may be alive"),
    ],
)
def test_only_what_is_dead_is_taken_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layers: list[str], left: list[str], why: str
) -> None:
    """What another container serves there is refused in one line, before anything is changed, also where
    it is slow (its zdb waits for the store); at the end only one's own is given back.
    """
    stack = Stack(monkeypatch, *layers)
    guarded: list[Path] = []
    monkeypatch.setattr(mounts, "guard", guarded.append)
    if left:
        with pytest.raises(UserError, match=why) as caught:
            services.clear(tmp_path, print)
        assert caught.value.code == Exit.CONFIG
        assert "\n" not in str(caught.value)
    else:
        services.clear(tmp_path, print)
    assert (stack.layers, guarded) == (left, [] if left else [tmp_path])
    stack.layers = list(layers)
    services.give_back(tmp_path)
    assert stack.layers == left


SHARED = """\
22 1 0:20 / / rw,relatime - overlay overlay rw
40 22 8:1 /srv/qsfs /mnt rw,relatime shared:7 - ext4 /dev/sda1 rw
"""
GUARD_ON = """\
41 40 0:50 / {point} ro shared:8 - tmpfs qsfs-guard ro
42 41 0:51 / {point} rw shared:9 - fuse zdbfs rw
"""


@pytest.mark.parametrize("root", ["rw,relatime", "rw,relatime shared:3"])
def test_what_is_shared_itself(root: str) -> None:
    """The folder that docker binds, not what lies on it or in it, whatever the root is."""
    table = SHARED.replace("rw,relatime", root, 1)
    assert mounts.shared_itself(Path("/mnt"), table) == mounts.mounts(table)[1]
    assert mounts.shared_itself(Path("/mnt/fs"), table) is None
    found = mounts.shared_itself(Path("/mnt"), table + GUARD_ON.format(point="/mnt"))
    assert found == mounts.mounts(table)[1]
    assert mounts.shared_itself(Path("/mnt/fs"), table + GUARD_ON.format(point="/mnt/fs")) is None
    left = table.replace("ext4 /dev/sda1", "tmpfs qsfs-guard")
    assert mounts.is_guard(mounts.shared_itself(Path("/mnt"), left))


@contextlib.contextmanager
def bound(source: Path, point: Path, *options: str) -> Iterator[Path]:
    """`source` mounted on `point`; both are made."""
    source.mkdir(exist_ok=True)
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(source), str(point)], check=True)
    try:
        if options:
            subprocess.run(["mount", *options, str(point)], check=True)
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.fixture
def may_mount() -> None:
    if (error := mounts.may_mount()) is not None:
        pytest.skip(f"may not mount here: {error}")
