"""Places where zdb's files are kept; `base` is the contract, each other module is one place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hookd.config import Config
    from hookd.files import Roots
    from hookd.stores.base import Store
    from hookd.stores.rclone import RcloneStore


def attach_store(config: Config, roots: Roots, staging: Path) -> Store:
    """The configured store for whoever only reads it, beside a daemon that may start any moment: nothing
    is made or cleaned up in it. `staging` is a private folder that a zstor sees too. Blocking.

    Raises ConfigError and UserError; one with code 69 where it cannot be reached.
    """
    if config.store.kind == "directory":
        from hookd.stores.directory import DirectoryStore

        assert config.store.directory is not None
        directory = DirectoryStore(config.store.directory.path)
        directory.attach()
        return directory
    if config.store.kind == "rclone":
        # a folder of its own: the path of rclone's socket has to be short
        return _rclone(config, config.hook.socket.parent / f"rclone-{os.getpid()}")
    from hookd.stores.zstor import ZstorStore

    assert config.store.zstor is not None
    return ZstorStore.from_config(config.store.zstor.config, roots, staging)[0]


def open_store(
    config: Config, roots: Roots, *, known: str | None = None
) -> tuple[Store, list[str]]:
    """The configured store, ready for use, and lines an administrator should read. `known`: the id of the
    folder that the journal speaks of.

    Raises ConfigError and UserError.
    """
    if config.store.kind == "directory":
        from hookd.stores.directory import DirectoryStore

        assert config.store.directory is not None
        directory = DirectoryStore(
            config.store.directory.path,
            concurrency=config.dispatch.workers,
            must_exist=config.store.directory.must_exist,
            known=known,
        )
        directory.prepare()
        return directory, []
    if config.store.kind == "rclone":
        return _rclone(config, config.hook.socket.parent / "rclone"), []
    from hookd.stores.zstor import ZstorStore

    assert config.store.zstor is not None
    zstor, warnings = ZstorStore.from_config(config.store.zstor.config, roots, config.staging_path)
    zstor.prepare()
    return zstor, warnings


def _rclone(config: Config, folder: Path) -> RcloneStore:
    """One rclone with its socket in `folder`."""
    from hookd.stores.rclone import RcloneStore

    assert config.store.rclone is not None
    store = RcloneStore(
        remote=config.store.rclone.remote,
        folder=folder,
        known_id=config.journal.path.with_name("rclone-store-id"),
        program=config.store.rclone.program,
        config=config.store.rclone.config,
        verify=config.store.rclone.verify,
        concurrency=config.dispatch.workers,
    )
    store.prepare()
    return store
