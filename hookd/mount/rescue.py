"""Stage mount, what `repair` moved aside: decided beside the remote where it can be, else named.

As long as its record is away, the mount shows what the remote has under its name. So

    nothing is there, and the content has no holes   it is new: copied to its name
    equal to what is there                           it was only read: nothing is lost with it
    every unclear zero is a zero there, too          whoever wrote it, the result is the same: what was
                                                     written goes over what is there
    anything else                                    stays, and is named: in `hookd status`, and at the
                                                     end, with exit code 75

Nothing is written over a file that was written to since. An entry goes only when its content is in the
mount; killed before, it is looked at again at the next start. Blocking, and the mount may hang.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hookd.admin.words import one_line, size
from hookd.log import get
from hookd.mount import blocks
from hookd.mount.blocks import Range
from hookd.mount.cache import RESCUED, Cache, files_below
from hookd.mount.repair import known_ranges, read

log = get("mount")

AT_ONCE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """One file that was moved aside."""

    place: Path
    """Its numbered folder: `vfs` and `vfsMeta` as in a cache."""
    inside: Path

    @property
    def content(self) -> Path:
        """Where it lies."""
        return self.place / "vfs" / self.inside

    @property
    def record(self) -> Path:
        """Its record, if there is one."""
        return self.place / "vfsMeta" / self.inside

    def name(self, prefix: str) -> str:
        """Below the mount point."""
        return str(self.inside).removeprefix(prefix)

    def line(self, prefix: str) -> str:
        """For whoever must decide."""
        with contextlib.suppress(OSError):
            length = f" ({size(self.content.stat().st_size)})"
            return (
                f"{self.name(prefix)!r}{length} was written to when its mounter was killed, and which of"
                f" its bytes are new cannot be told; what was written lies in {self.content}: put what"
                " is right on the remote, and remove it there"
            )
        return f"{self.name(prefix)!r}: {self.content} cannot be read"


def rescued(cache: Cache) -> list[Rescued]:
    """Everything that lies aside, by name. Raises OSError."""
    found = []
    for each in files_below(cache.folder / RESCUED):
        number, part, *rest = each.parts
        if part == "vfs" and rest:
            found.append(Rescued(place=cache.folder / RESCUED / number, inside=Path(*rest)))
    return sorted(found, key=lambda each: (each.inside, each.place))


def lines(cache: Cache) -> list[str]:
    """What lies aside, a line each. Raises OSError."""
    return [one_line(each.line(cache.prefix)) for each in rescued(cache)]


def settle(cache: Cache, mountpoint: Path) -> None:
    """Decide what can be decided, through the mount at `mountpoint`. Raises OSError."""
    for each in rescued(cache):
        name = each.name(cache.prefix)
        if name == str(each.inside):  # of another path of this remote: not below this mount
            continue
        try:
            done = _settle(each, mountpoint / name, cache.folder / "vfsMeta" / each.inside)
        except OSError as error:
            log.warning("a rescued file cannot be settled", name=name, error=str(error))
            continue
        if done:
            log.info("a rescued file is settled", name=name, how=done)
            # The record first: a content that is left without one says less, and is looked at again.
            each.record.unlink(missing_ok=True)
            each.content.unlink()


def _settle(each: Rescued, target: Path, live: Path) -> str:
    """What was done; empty if nobody can say what is right."""
    known = read(each.record) or {}
    if not known.get("Dirty"):
        known = {}
    with each.content.open("rb") as local:
        size_bytes = os.fstat(local.fileno()).st_size
        there = known_ranges(known, size_bytes)
        found = blocks.examine(local.fileno(), size_bytes, there)
        try:
            remote = target.open("rb")
        except FileNotFoundError:
            present = blocks.joined([*there, *blocks.data(local.fileno(), size_bytes)])
            if present != blocks.joined([(0, size_bytes)]):
                return ""
            _copy(local, target)
            return "copied: there was none"
        with remote:
            written = blocks.joined([*there, *blocks.data(local.fileno(), size_bytes)])
            same_size = os.fstat(remote.fileno()).st_size == size_bytes
            if same_size and not _differ(local, remote, written, zeros=False):
                return "nothing new in it"
            if not known or _differ(local, remote, found.unclear, zeros=True):
                return ""
        if (read(live) or {}).get("Dirty"):
            return ""  # a task wrote to it since
        _merge(local, target, blocks.joined([*there, *found.proven, *found.unclear]), size_bytes)
    return "merged"


def _differ(local: BinaryIO, remote: BinaryIO, ranges: list[Range], *, zeros: bool) -> bool:
    """Whether they differ there; with `zeros`: whether a zero of `local` is none on the remote."""
    for begin, end in ranges:
        for at in range(begin, end, AT_ONCE_BYTES):
            length = min(AT_ONCE_BYTES, end - at)
            ours = os.pread(local.fileno(), length, at)
            theirs = _read(remote, length, at).ljust(len(ours), b"\0")
            if ours == theirs:
                continue
            if not zeros or any(not a and b for a, b in zip(ours, theirs, strict=True)):
                return True
    return False


def _read(file: BinaryIO, length: int, at: int) -> bytes:
    """All of it up to the end of the file."""
    found = b""
    while part := os.pread(file.fileno(), length - len(found), at + len(found)):
        found += part
    return found


def _copy(local: BinaryIO, target: Path) -> None:
    """Under a name that nobody has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        local.seek(0)
        shutil.copyfileobj(local, file, AT_ONCE_BYTES)


def _merge(local: BinaryIO, target: Path, ranges: list[Range], size_bytes: int) -> None:
    """What is ours over what is there; errors of its close come out too."""
    with target.open("r+b", buffering=0) as file:
        for begin, end in ranges:
            for at in range(begin, end, AT_ONCE_BYTES):
                content = os.pread(local.fileno(), min(AT_ONCE_BYTES, end - at), at)
                while content:
                    written = os.pwrite(file.fileno(), content, at)
                    content, at = content[written:], at + written
        file.truncate(size_bytes)
