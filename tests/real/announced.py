"""What a real zdb announced, and whether one content of a file of its holds all that another does.

zdb's files have no versions, but an order: a data file is appended to; an index file is appended to,
and an entry of it is rewritten to point further on, or to be deleted. So `holds` can say of two
contents of one file that the first is not older than the second.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.zdb_files import DELETED, INDEX_HEADER, INDEX_ITEM

HOOK = Path(__file__).with_name("recording_hook.py")


def recording_hook(folder: Path) -> Path:
    """An executable that zdb can call: `recording_hook.py` with this Python."""
    path = folder / "recording-hook"
    path.write_text(f"#!{sys.executable} -IS\n{HOOK.read_text()}")
    path.chmod(0o755)
    return path


@dataclass(slots=True)
class Recorded:
    """One call of the hook."""

    folder: Path
    argv: list[str]
    code: int | None = None

    @property
    def shim(self) -> int | None:
        """The process of the shim, None before it is there."""
        try:
            return int((self.folder / "shim").read_text())
        except FileNotFoundError:
            return None

    @property
    def kept(self) -> bool:
        """Whether the shim said that the event is durable; of jump-index 1 says so too."""
        return self.code == 0 or (self.code == 1 and self.argv[0] == "jump-index")

    def files(self) -> dict[str, Path]:
        """`index/NS/iN` → its copy."""
        return {
            path.name.replace(".", "/"): path
            for path in self.folder.iterdir()
            if path.name.count(".") == 2
        }


class Announced:
    """The calls that a folder has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Recorded] = []
        """Those whose shim has not said anything yet, oldest first."""
        self.calls = 0
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._least: dict[str, Path] = {}

    def required(self) -> dict[str, Path]:
        """`index/NS/iN` → the newest content of it that was acknowledged."""
        self.look()
        return dict(self._least)

    def look(self) -> None:
        """Calls that are new, or have ended. Threads may look at once."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.suffix == "" and path.name not in self._known:
                self._known.add(path.name)
                self.calls += 1
                self.running.append(Recorded(path, json.loads((path / "argv").read_text())))
        for call in list(self.running):
            try:
                call.code = int((call.folder / "code").read_text())
            except FileNotFoundError:
                continue
            self.running.remove(call)
            if call.kept:
                for name, copy in call.files().items():
                    before = self._least.get(name)
                    # the folders' names sort by time
                    if before is None or before.parent.name < copy.parent.name:
                        self._least[name] = copy


def holds(name: str, newer: bytes, older: bytes) -> bool:
    """Whether `newer`, a content of the file `name`, has all that `older` had."""
    if name.startswith("data/"):
        return newer.startswith(older)
    if len(newer) < len(older):
        return False
    position = INDEX_HEADER.size
    while position + INDEX_ITEM.size <= len(older):
        idlen, *before = INDEX_ITEM.unpack_from(older, position)
        same, *after = INDEX_ITEM.unpack_from(newer, position)
        begin, position = position + INDEX_ITEM.size, position + INDEX_ITEM.size + idlen
        if same != idlen or newer[begin:position] != older[begin:position]:
            return False
        if before != after and not _goes_on(before, after):
            return False
    return True


def _goes_on(before: list[int], after: list[int]) -> bool:
    """(offset, length, previous, flags, dataid, …): the value lies further on, or is deleted now."""
    if after[3] & DELETED != before[3] & DELETED:
        return bool(after[3] & DELETED)
    return (after[4], after[0]) >= (before[4], before[0])
