"""Setting a namespace's files aside: renamed in their own folders, never removed. Blocking."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from hookd.files import NAMESPACE_FILE, Kind, Roots
from hookd.log import get
from hookd.restore.place import sync_folder

log = get("restore")

PREFIX = ".hookd-aside-"
"""Folder `PREFIX<time>` in the namespace's folder under either root; zdb reads its own names only."""


def set_aside(roots: Roots, namespace: str) -> list[str]:
    """Move every file of zdb into a folder of its own; returns where they lie now.

    The folder is a new one each time, so nothing in it is replaced; what a kill in between left lies in
    two of them. Raises OSError.
    """
    moved: list[str] = []
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for root, kind, extra in (
        (roots.index, Kind.INDEX, [NAMESPACE_FILE]),
        (roots.data, Kind.DATA, []),
    ):
        folder = root / namespace
        names = [f"{kind.value[0]}{number}" for number in roots.numbers(kind, namespace)]
        names = [name for name in [*extra, *reversed(names)] if (folder / name).exists()]
        if not names:
            continue
        place = _made(folder, stamp)
        for name in names:
            os.rename(folder / name, place / name)
        sync_folder(place)
        sync_folder(folder)
        moved.append(str(place))
    if moved:
        log.warning("set aside", namespace=namespace, folders=moved)
    return moved


def _made(folder: Path, stamp: str) -> Path:
    """A folder that was not there before: the second one of a second gets a number."""
    for number in itertools.count(1):
        place = folder / f"{PREFIX}{stamp}{f'-{number}' if number > 1 else ''}"
        try:
            place.mkdir(0o700)
        except FileExistsError:
            continue
        return place
    raise AssertionError("numbers do not end")
