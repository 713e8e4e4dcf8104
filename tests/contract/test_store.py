"""The store contract (hookd/stores/base.py), on every store: what comes back, and errors."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import (
    RemoteMissing,
    SourceChanged,
    SourceGone,
    StoreError,
    StoreUnreachable,
)
from hookd.files import FileKey, data_key, index_key, namespace_key
from hookd.stores.base import Store
from tests.contract.stores import KEY, Harness, content, every_call, put, tree

pytestmark = pytest.mark.anyio

MIB = 1 << 20


# -- what comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3])
async def test_what_is_put_comes_back(store: Store, harness: Harness, size: int) -> None:
    """Digest, size where the store knows it, and every byte."""
    wanted = random.Random(size).randbytes(size)
    digest = await put(store, KEY, harness.live(KEY, wanted))
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest
    assert found.size_bytes in (None, size)
    assert await content(store, harness, KEY) == wanted


@pytest.mark.parametrize("key", [index_key("ns", 0), namespace_key("ns"), data_key("ns", 4294967)])
async def test_snapshot_is_kept_under_the_live_key(
    store: Store, harness: Harness, key: FileKey
) -> None:
    """The snapshot's content, not the live file's, which is not touched."""
    live = harness.live(key, b"newer")
    await put(store, key, harness.snapshot(key, b"frozen"))
    assert await content(store, harness, key) == b"frozen"
    assert live.read_bytes() == b"newer"


async def test_snapshot_of_a_file_that_is_not_there_any_more(
    store: Store, harness: Harness
) -> None:
    """It can be stored, and leaves no live file behind."""
    await put(store, KEY, harness.snapshot(KEY, b"frozen"))
    assert await content(store, harness, KEY) == b"frozen"
    assert not harness.roots.path(KEY).exists()


async def test_a_newer_put_replaces(store: Store, harness: Harness) -> None:
    """One content per key: the last."""
    await put(store, KEY, harness.live(KEY, b"old" * 1000))
    digest = await put(store, KEY, harness.live(KEY, b"new"))
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest
    assert await content(store, harness, KEY) == b"new"


@pytest.mark.parametrize(
    "harness",
    [
        "directory",
        pytest.param("rclone-folder", marks=pytest.mark.real),
        pytest.param("rclone-webdav", marks=pytest.mark.real),
        pytest.param("rclone-s3", marks=pytest.mark.real),
    ],
    indirect=True,
)
@pytest.mark.parametrize("size", [0, 5 * MIB + 3])
async def test_a_put_without_a_digest(store: Store, harness: Harness, size: int) -> None:
    """Where copies are proven, stat afterwards gives the digest of the source."""
    assert store.proves_copies
    wanted = random.Random(size).randbytes(size)
    await store.put(KEY, harness.live(KEY, wanted), None)
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(wanted)
    assert await content(store, harness, KEY) == wanted


async def test_the_same_content_again(store: Store, harness: Harness) -> None:
    """Is no error, under the same key or another."""
    other = data_key("ns", 1)
    for key in (KEY, KEY, other):
        await put(store, key, harness.live(key, b"same"))
    assert await content(store, harness, KEY) == await content(store, harness, other) == b"same"


async def test_names_with_spaces_and_beyond_ascii(store: Store, harness: Harness) -> None:
    """Whatever zdb takes for a namespace."""
    key = data_key(" zdbfs data é 漢 .d ", 3)
    await put(store, key, harness.live(key, b"x"))
    assert await content(store, harness, key) == b"x"
    names = await store.namespaces()
    assert names is None or names == [key.namespace]


async def test_what_was_never_put_is_missing(store: Store, harness: Harness) -> None:
    """stat says None, get says RemoteMissing, and nothing is made of it."""
    await put(store, data_key("ns", 10), harness.live(data_key("ns", 10), b"x"))
    before = tree(harness.folder)
    assert await store.stat(data_key("ns", 1)) is None
    with pytest.raises(RemoteMissing):
        await store.get(data_key("ns", 1), harness.folder / "target")
    assert tree(harness.folder) == before


async def test_namespaces_are_those_with_files(store: Store, harness: Harness) -> None:
    """Or None, where the store cannot list."""
    names = await store.namespaces()
    assert names is None or list(names) == []
    for key in (index_key("b", 0), data_key("b", 0), namespace_key("a")):
        await put(store, key, harness.live(key, b"x"))
    names = await store.namespaces()
    assert names is None or list(names) == ["a", "b"]


async def test_as_many_puts_at_once_as_it_claims(store: Store, harness: Harness) -> None:
    """And twice as many: the store orders them itself."""
    keys = [data_key("ns", number) for number in range(2 * store.concurrency)]
    async with anyio.create_task_group() as tasks:
        for key in keys:
            source = harness.live(key, str(key).encode() * 1000)
            tasks.start_soon(put, store, key, source)
    for key in keys:
        assert await content(store, harness, key) == str(key).encode() * 1000


# -- errors ----------------------------------------------------------------------------------------


async def test_the_source_is_gone(store: Store, harness: Harness) -> None:
    """SourceGone, whether the file or its namespace is missing; what was stored stays."""
    live = harness.live(KEY, b"old")
    await put(store, KEY, live)
    live.unlink()
    with pytest.raises(SourceGone):
        await store.put(KEY, live, digest_of(b"old"))
    live.parent.rmdir()
    with pytest.raises(SourceGone):
        await store.put(KEY, live, digest_of(b"old"))
    assert await content(store, harness, KEY) == b"old"


async def test_the_source_is_not_what_was_hashed(store: Store, harness: Harness) -> None:
    """SourceChanged, or else a digest that tells: never the old digest on the new content."""
    live = harness.live(KEY, b"newer")
    try:
        await store.put(KEY, live, digest_of(b"hashed before"))
    except SourceChanged:
        assert await store.stat(KEY) is None
    else:
        found = await store.stat(KEY)
        assert found is not None
        assert found.digest == digest_of(b"newer")


async def test_the_source_changes_during_the_put(store: Store, harness: Harness) -> None:
    """SourceChanged, or a digest that tells: what was stored never passes for what was asked."""
    live = harness.live(KEY, b"\0" * 8 * MIB)
    began, stop = threading.Event(), threading.Event()

    def rewrite() -> None:
        turn = 0
        with open(live, "r+b", buffering=0) as handle:
            while not stop.wait(0.001):
                turn += 1
                handle.seek(random.Random(turn).randrange(8 * MIB))
                handle.write(b"\1")
                began.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        await run_sync(began.wait)
        for _ in range(5):
            with contextlib.suppress(SourceChanged):
                await store.put(KEY, live, digest_of(b"\0" * 8 * MIB))
            found = await store.stat(KEY)
            assert found is None or found.digest != digest_of(b"\0" * 8 * MIB)
    finally:
        stop.set()
        writer.join()


async def test_unreachable(store: Store, harness: Harness) -> None:
    """Every call says so, and all is well again when the remote is back."""
    await put(store, KEY, harness.live(KEY, b"x"))
    await run_sync(harness.lose)
    try:
        for call in every_call(store, harness):
            with pytest.raises(StoreUnreachable):
                await call()
    finally:
        await run_sync(harness.regain)
    await store.health()
    await store.prove_absence()
    assert await content(store, harness, KEY) == b"x"


async def test_absence_can_be_proven(store: Store, harness: Harness) -> None:
    """On a remote that is well and empty, again and again, and by a later instance."""
    for each in (store, store, harness.fresh()):
        assert await each.stat(KEY) is None
        await each.prove_absence()
    assert harness.roots.namespaces() == []


async def test_a_record_with_the_local_disk_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the store contract, so that it is tried again: the daemon must outlive it."""
    await store.put_record("manifest", b"one")
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, mode, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with contextlib.suppress(StoreError):  # a store may need no local file for it
            await store.put_record("manifest", b"two")
    await store.put_record("manifest", b"three")
    assert await store.get_record("manifest") == b"three"
