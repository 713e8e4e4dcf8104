"""Stage mount, before every start of rclone: records that say less than their content.

rclone rewrites a file's record in place at every open and close, and killed in that moment it leaves an
empty one. At its next start it says "corrupt metadata" and *removes the content*: with 1.75.2, 26 of 200
files that were closed just before a kill -9 were gone for good. It removes content without a record too,
which a kill between the two renames of a renamed file leaves. Here such a record is written anew, as not
uploaded, if all of the content was certainly written (`blocks.is_whole`); else it is moved aside.

While a file is open its record stays the one of its first write: its size then, and that write alone as
what is in the cache. Restarted after a kill rclone takes what is missing there from the remote: the old
content over the new. So the record of a file that waits for its upload is completed before:

    no file on the remote when it was opened   all of it is ours, holes are zeros
    beyond the recorded size                   can only have been written since
    proven (`blocks`)                          was written or fetched since
    unclear (`blocks`)                         the content is moved aside: uploading either reading of it
                                               could put old bytes over new ones, or zeros over good ones

What was moved aside is looked at again beside the remote once that is mounted (`rescue`), and named until
somebody has decided.

Weakness: zeros that were written, just before a kill, into a block beside a known range or into a file
that was cut short and grown again in the same open are not seen: they are taken from the remote.

Blocking; no rclone may be at this cache.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hookd.log import get
from hookd.mount import blocks
from hookd.mount.blocks import Range
from hookd.mount.cache import PROBE_PREFIX, RESCUED, files_below

log = get("mount")

Record = dict[str, Any]


@dataclass(slots=True)
class Repaired:
    """What was found; paths below the cache's content folder."""

    records: list[str] = field(default_factory=list)
    """Written anew: they are uploaded."""
    extended: list[str] = field(default_factory=list)
    """Said less than their content: they say now what of it is there."""
    aside: list[str] = field(default_factory=list)
    """Moved to `rescued`: what of their content is theirs is not certain."""


def repair(folder: Path) -> Repaired:
    """Go through content and records of the cache at `folder`. Raises OSError."""
    done = Repaired()
    for inside in list(files_below(folder / "vfs")):
        content, record = folder / "vfs" / inside, folder / "vfsMeta" / inside
        if inside.name.startswith(PROBE_PREFIX) or content.is_symlink():
            continue
        known = read(record)
        with content.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if known:
                _complete(folder, inside, known, file.fileno(), done)
            elif known is None and not any(blocks.data(file.fileno(), size_bytes)):
                continue  # opened, and never written to: nothing is lost with it
            elif known is not None and blocks.is_whole(file.fileno(), size_bytes):
                _write(record, size_bytes, os.fstat(file.fileno()).st_mtime, folder)
                done.records.append(str(inside))
            else:
                _move_aside(folder, inside)
                done.aside.append(str(inside))
    if done.records or done.aside or done.extended:
        log.warning(
            "records that a kill left half written",
            mended=done.records,
            extended=done.extended,
            moved_aside=done.aside,
        )
    return done


def read(record: Path) -> Record | None:
    """The record; empty if it is torn, None if there is none. Raises OSError."""
    try:
        found = json.loads(record.read_bytes())
        return found if isinstance(found, dict) and "Dirty" in found else {}
    except ValueError:
        return {}
    except (FileNotFoundError, NotADirectoryError):
        return None


def known_ranges(known: Record, size_bytes: int) -> list[Range]:
    """What of a content of `size_bytes` is there by its record."""
    found = ((each["Pos"], each["Pos"] + each["Size"]) for each in known.get("Rs") or [])
    return blocks.joined((begin, min(end, size_bytes)) for begin, end in found)


def _complete(folder: Path, inside: Path, known: Record, handle: int, done: Repaired) -> None:
    """Let a dirty record say what of its content is there, or move both aside."""
    if not known["Dirty"]:
        return
    size_bytes = os.fstat(handle).st_size
    said, began = known_ranges(known, size_bytes), known.get("Size")
    there = list(said)
    if not known.get("Fingerprint"):
        there = blocks.joined([(0, size_bytes)])
    elif isinstance(began, int) and 0 <= began < size_bytes:
        there = blocks.joined([*said, (began, size_bytes)])
    found = blocks.examine(handle, size_bytes, there)
    there = blocks.joined([*there, *found.proven])
    record = folder / "vfsMeta" / inside
    if there != said or began != size_bytes:
        known["Rs"] = [{"Pos": begin, "Size": end - begin} for begin, end in there] or None
        known["Size"] = size_bytes
        _replace(record, known, folder)
        if not found.unclear:
            done.extended.append(str(inside))
    if found.unclear:
        _move_aside(folder, inside)
        done.aside.append(str(inside))


def _move_aside(folder: Path, inside: Path) -> None:
    """Content and record, to the first place where nothing was moved to before."""
    places = (folder / RESCUED / str(number) for number in itertools.count(1))
    place = next(each for each in places if not os.path.lexists(each / "vfs" / inside))
    # The record first: content without one is moved again at the next start, and says less then.
    for part in ("vfsMeta", "vfs"):
        source, target = folder / part / inside, place / part / inside
        if os.path.lexists(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)


def _write(record: Path, size_bytes: int, changed: float, folder: Path) -> None:
    """A record of a file that is all there and not uploaded."""
    when = datetime.fromtimestamp(changed, UTC).isoformat()
    record_of = {
        "ModTime": when,
        "ATime": when,
        "Size": size_bytes,
        "Rs": [{"Pos": 0, "Size": size_bytes}] if size_bytes else None,
        "Fingerprint": "",
        "Dirty": True,
    }
    _replace(record, record_of, folder)


def _replace(record: Path, found: Record, folder: Path) -> None:
    """Whole or not at all."""
    # not among the records: rclone takes every file there for one
    temporary = folder / "record.tmp"
    with temporary.open("w") as file:
        file.write(json.dumps(found))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(record)
