"""Whether zdb's map of sequential keys knows the newest index file of a namespace.

In: the roots; out: how NSJUMP has to be done there (`zdb_jump`). zdb finds a sequential key by a map in
its memory, first key → index file. It enters a file when it begins it, and at its start each file *with
an entry* (0-db v2.0.7 libzdb/index_loader.c, index.c, index_seq.c). So for a blank newest file:

- zdb was started on it: it is not in the map. What is written to it is not found (GET answers nothing,
  an update goes to a wrong place in the file before) until a newer file is begun.
- zdb has begun it itself: it is in the map. Beginning another one enters the same first key twice, and
  the next key that is given out is not found.

Which of the two it is, zdb does not say. Its descriptor of the file does: the header of a file that it
began was written through this one, that of a loaded one through another, so only there the position is
0. It is looked up in /proc, like the owner of the lock.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from hookd.entries import HEADER_BYTES, is_sequential
from hookd.files import Kind, Roots, index_key
from hookd.zdb import lock_holders


class Tail(Enum):
    """The newest index file of a namespace."""

    USED = "used"
    """It has entries, or is i0, which always is in the map; or keys are no numbers here."""
    LOADED = "loaded"
    """Blank, and zdb was started on it: to be followed by a new one before the first write."""
    BEGUN = "begun"
    """Blank, and in the map: not to be followed by another blank one."""
    UNKNOWN = "unknown"
    """Blank, and zdb's process cannot be looked at from here."""


def tail(roots: Roots, namespace: str) -> Tail:
    """Look at the files and at zdb. Blocking, no waiting."""
    numbers = roots.numbers(Kind.INDEX, namespace)
    if not numbers or numbers[-1] == 0:
        return Tail.USED
    key = index_key(namespace, numbers[-1])
    if (roots.length(key) or 0) > HEADER_BYTES or not is_sequential(roots.path(key)):
        return Tail.USED
    position = _position(roots, roots.path(key))
    if position is None:
        return Tail.UNKNOWN
    return Tail.BEGUN if position else Tail.LOADED


def _position(roots: Roots, path: Path) -> int | None:
    """Of zdb's descriptor of the file; None where it cannot be seen."""
    for pid in lock_holders([roots.index, roots.data]):
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if os.readlink(link) != str(path):
                    continue
                text = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
                return int(text.split()[1])  # "pos:\t29\n..."
        except (OSError, ValueError, IndexError):
            continue
    return None
