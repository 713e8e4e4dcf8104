"""A directory store with something to put into it."""

from __future__ import annotations

import os
from pathlib import Path

from hookd.digest import digest_of
from hookd.files import FileKey, data_key
from hookd.stores.directory import DirectoryStore

KEY = data_key("ns", 0)
MIB = 1 << 20


def opened(path: Path) -> DirectoryStore:
    """The store in this folder, ready; its health says soon that the folder hangs."""
    store = DirectoryStore(path, health_timeout_s=0.2)
    store.prepare()
    return store


def source(path: Path, content: bytes, name: str = "d0") -> Path:
    """A file to store, beside the store's folder."""
    place = path.parent / "live" / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    return place


async def put(store: DirectoryStore, path: Path, content: bytes, key: FileKey = KEY) -> None:
    await store.put(key, source(path, content, key.name), digest_of(content))


def leftovers(path: Path) -> list[str]:
    """What lies in the store's tmp."""
    return os.listdir(path / ".hookd" / "tmp")
