"""The recorded life of a real zdb: every hook call, and the files that lay there at that moment.

`qsfs-lifecycle.jsonl.gz` was written by a hook that recorded its argv and, of each file, size and
hash; what the files held is not in it. `load` gives every file a content made from its path: a data
file that grew keeps what it had before, as zdb only appends to it, and any other change is another
content. Index files can be read as such, and point at nothing. `Replay` brings a folder from one step to
the next as zdb would: appending to data files, rewriting index files in place.

The invariant: equal (path, size, hash) in the record are equal bytes, in every run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hookd.entries import DATA_HEADER_BYTES

RECORD = "qsfs-lifecycle.jsonl.gz"

LOCK = ".lockfile"
"""zdb's own, in both roots: no file of a namespace."""

_HEADER = struct.Struct("<4sI16sIB")
_ENTRY = struct.Struct("<BIIIBIIIII")
_ID_BYTES = 32
"""0-db libzdb/index.h; ids may have up to 255 bytes. Long ones, so that most of a content is its own."""

Recorded = Mapping[str, tuple[int, str]]
"""Path → (size in bytes, hash), as the hook saw them."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one file held at one moment."""

    seed: str
    """Names the stream of which it is the beginning."""
    size_bytes: int

    index: bool = False
    """Whether it must look like an index file of zdb."""

    def read(self) -> bytes:
        """The bytes."""
        stream = hashlib.shake_256(self.seed.encode()).digest(self.size_bytes)
        return _as_index(stream) if self.index else stream

    def grew_from(self, before: Content | None) -> bool:
        """Whether it is `before` with something behind it."""
        return before is not None and self.seed == before.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One hook call, and every file under zdb's roots at that moment."""

    number: int
    argv: tuple[str, ...]
    exit: int
    """What the recording hook answered."""
    files: Mapping[str, Content]
    """By path as recorded: `/index/NAMESPACE/iN`, `/data/NAMESPACE/dN`."""

    @property
    def hook(self) -> str:
        """Its name."""
        return self.argv[0]

    @property
    def asked_back(self) -> str | None:
        """The path of a missing-data."""
        return self.argv[2] if self.hook == "missing-data" else None


def _as_index(stream: bytes) -> bytes:
    """As many bytes, with a header and entries that point at no bytes, where d0 begins."""
    header = _HEADER.pack(b"IDX0", 4, stream[:16], 0, 1)
    count = len(stream) // (_ENTRY.size + _ID_BYTES) + 1
    entries = (
        _ENTRY.pack(_ID_BYTES, DATA_HEADER_BYTES, *(0,) * 8)
        + stream[number * _ID_BYTES :][:_ID_BYTES]
        for number in range(count)
    )
    return (header + b"".join(entries))[: len(stream)]


class _Contents:
    """Gives contents to what was recorded, step by step."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, str]] = {}
        self._begun: dict[str, int] = {}

    def of(self, path: str, size: int, mark: str) -> Content:
        if not path.startswith("/data/"):
            is_index = path.rpartition("/")[2].startswith("i")
            return Content(f"{path} {mark}", size, index=is_index)
        last = self._last.get(path)
        if last is not None and last != (size, mark) and size <= last[0]:
            self._begun[path] = self._begun.get(path, 0) + 1  # it did not grow: another file
        self._last[path] = (size, mark)
        return Content(f"{path} {self._begun.get(path, 0)}", size)


def load() -> list[Step]:
    """The record, in the order in which the hooks were called."""
    packed = resources.files(__package__).joinpath(RECORD).read_bytes()
    return parse(gzip.decompress(packed).decode().splitlines())


def parse(lines: Sequence[str]) -> list[Step]:
    """Lines of the record into steps. Raises ValueError, KeyError for what is none."""
    contents = _Contents()
    steps = []
    for number, line in enumerate(lines):
        call = json.loads(line)
        files: Recorded = call["files"]
        steps.append(
            Step(
                number=number,
                argv=tuple(call["argv"]),
                exit=call["exit"],
                files={path: contents.of(path, *found) for path, found in files.items()},
            )
        )
    return steps


class Replay:
    """A folder with the roots `index` and `data`, brought from step to step."""

    def __init__(self, folder: Path, *, zdb_id: str) -> None:
        """`zdb_id` takes the place of the recorded one (`tcp://:::9914`) in every argv."""
        self.folder = folder
        self._zdb_id = zdb_id
        self._here: dict[str, Content] = {}
        self._away: dict[str, Content] = {}
        self.last: dict[str, Content] = {}
        """Path → what zdb had in it at last; files that were removed since included."""

    def lay_out(self, step: Step) -> None:
        """Write and remove files until the folder is as it was at `step`.

        A file that was removed and comes back unchanged is not written: only a retrieve can have
        brought it back in the record, so here too somebody else has to.
        """
        for path in self.vanishing(step):
            self._away[path] = self._here.pop(path)
            self.real(path).unlink()
        for path, content in step.files.items():
            if self._away.get(path) == content:
                continue
            if self._here.get(path) != content:
                self._write(path, content)

    def vanishing(self, step: Step) -> list[str]:
        """The files that `lay_out` will remove: they must be in the store by then."""
        return [path for path in self._here if path not in step.files]

    def argv(self, step: Step) -> list[str]:
        """The hook's arguments, with the paths of this folder and the id of this zdb."""
        name, _, *rest = step.argv
        return [name, self._zdb_id, *(str(self.real(a)) if a[:1] == "/" else a for a in rest)]

    def returned(self, path: str) -> bool:
        """Whether a file that had been removed is here again, with the right bytes.

        From then on it counts as zdb's own again.
        """
        wanted, real = self._away[path], self.real(path)
        if not real.exists() or real.read_bytes() != wanted.read():
            return False
        self._here[path] = self._away.pop(path)
        return True

    @property
    def away(self) -> list[str]:
        """Files that were removed and have not come back."""
        return sorted(self._away)

    def real(self, path: str) -> Path:
        """Where a recorded path lies here."""
        return self.folder / path.lstrip("/")

    def wanted(self, skip: Sequence[str] = ()) -> Iterator[tuple[str, Content]]:
        """(`index/NS/iN`, content) of every file that must end in a store: the last of each."""
        for path, content in sorted(self.last.items()):
            if not path.endswith(LOCK) and path.split("/")[2] not in skip:
                yield path.lstrip("/"), content

    def _write(self, path: str, content: Content) -> None:
        real, before = self.real(path), self._here.get(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        data = content.read()
        if before is not None and content.grew_from(before):
            with real.open("ab") as file:
                file.write(data[before.size_bytes :])
        else:  # in place: zdb never renames
            with real.open("r+b" if real.exists() else "wb") as file:
                file.write(data)
                file.truncate()
        self._here[path] = self.last[path] = content
