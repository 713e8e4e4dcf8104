"""The folder of `hookd restore --to DIR`: whose it is, and what an earlier run has left in it.

The invariant: after a run that did not fail each file in it is what the store has; nothing is changed in
a folder that no such run has made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import anyio.to_thread

from hookd.config import Config
from hookd.digest import digest_fd
from hookd.errors import Exit, UserError
from hookd.files import FileKey, Roots
from hookd.manifest import Manifest
from hookd.restore import remote
from hookd.restore.fit import Refused
from hookd.restore.local import Local, look
from hookd.restore.remote import There
from hookd.stores.base import Store

MARK = ".hookd-copy"
"""File in the folder: what lies in it came out of a store."""


def begin(config: Config, folder: Path) -> Roots:
    """The folder is there, and marked if it was empty. Blocking. Raises UserError."""
    target = Roots(folder / "index", folder / "data")
    for each in (target.index, target.data):
        if (other := next((o for o in _taken(config) if _overlap(each, o)), None)) is not None:
            whose = "zdb's own" if other in (config.zdb.index, config.zdb.data) else "hookd's"
            raise UserError(
                f"{folder}: {whose} files are there ({other}); give another folder", code=Exit.USAGE
            )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(each.exists() for each in (target.index, target.data)):
            (folder / MARK).touch(mode=0o600)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from error
    return target


def _taken(config: Config) -> Iterable[Path]:
    yield from (config.zdb.index, config.zdb.data, config.staging_path)
    if config.store.directory is not None:
        yield config.store.directory.path


def _overlap(one: Path, other: Path) -> bool:
    a, b = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return a.is_relative_to(b) or b.is_relative_to(a)


async def renew(
    folder: Path, store: Store, target: Roots, there: There, manifest: Manifest | None
) -> Local:
    """What an earlier run brought of a namespace, and is still what the store has; anything else goes.

    Adds data files to `there`. Raises Refused (files of somebody else), StoreError, OSError.
    """
    local = await anyio.to_thread.run_sync(look, target, there.namespace)
    await remote.look_for_data(store, there, local.data, manifest)

    def changed() -> list[FileKey]:
        found: list[FileKey] = []
        for key in local.lengths:
            with target.path(key).open("rb") as file:
                digest, _ = digest_fd(file.fileno())
            if key not in there.files or there.files[key].digest != digest:
                found.append(key)
        return found

    old = await anyio.to_thread.run_sync(changed)
    if not old:
        return local
    if not (folder / MARK).exists():
        raise Refused(f"{folder} has another {old[0]} than the store; give another folder")
    for key in old:
        target.path(key).unlink(missing_ok=True)
    return await anyio.to_thread.run_sync(look, target, there.namespace)
