"""A restore over a slow store against one call after the other, and what missing-data adds to a call."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import anyio

from hookd.backoff import Backoff
from hookd.digest import digest_of
from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal import Journal, connect
from hookd.manifest import Manifest, Named
from hookd.recovery import Retriever
from hookd.restore import remote
from hookd.restore.local import look
from hookd.restore.restorer import Restorer
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging
from hookd.stores.base import Remote
from hookd.stores.directory import DirectoryStore
from tests.bench.harness import Line
from tests.fakes.silent_zdb import SilentZdb

FILES = 1000
CALL_S = 0.05
RETRIEVES = 40


class SlowStore(DirectoryStore):
    """A folder that is 50 ms away, for reading."""

    own_s = 0.0
    """What its calls took in all."""

    async def stat(self, key: FileKey) -> Remote | None:
        """As ever, later."""
        began = time.perf_counter()
        await anyio.sleep(CALL_S)
        found = await super().stat(key)
        self.own_s += time.perf_counter() - began
        return found

    async def get(self, key: FileKey, target: Path) -> None:
        """As ever, later."""
        began = time.perf_counter()
        await anyio.sleep(CALL_S)
        await super().get(key, target)
        self.own_s += time.perf_counter() - began


def of_many_files(base: Path, tools: Path) -> list[Line]:
    """1,000 files, half of them indexes, at 50 ms a call; then single data files."""
    zdb = SilentZdb.at(base / "zdb", datasize=2000)
    zdb.create("ns")
    while zdb._namespaces["ns"].active < FILES // 2 - 1:
        zdb.set("ns", b"key-%d" % len(zdb.truth.get("ns", {})), os.urandom(600))
    return anyio.run(_measure, base, Roots(zdb.index, zdb.data))


async def _measure(base: Path, source: Roots) -> list[Line]:
    store = SlowStore(base / "store")
    store.prepare()
    files: dict[FileKey, Named] = {}
    for number in source.numbers(Kind.INDEX, "ns"):
        for key in (index_key("ns", number), data_key("ns", number)):
            content = source.path(key).read_bytes()
            files[key] = Named(len(content), digest_of(content), 1.0, False)
            await store.put(key, source.path(key), files[key].digest)
    manifest = Manifest("l", "w", 1, 1.0, files)
    roots = Roots(base / "new/index", base / "new/data")
    began = time.perf_counter()
    there = await remote.look(store, "ns", manifest)
    restorer = Restorer(store=store, roots=roots, full=True)
    done = await restorer.restore(look(roots, "ns"), there, manifest)
    seconds = time.perf_counter() - began
    one_by_one = done.files * 2 * CALL_S
    restored = Line(
        f"restore of {done.files} files, calls of 50 ms: times one by one",
        f"{one_by_one / seconds:.1f}",
        "≥ 8",
        one_by_one / seconds >= 8,
        f"{seconds:.1f} s, one by one {one_by_one:.0f} s",
    )
    return [restored, await _missing(base, store, roots)]


async def _missing(base: Path, store: SlowStore, roots: Roots) -> Line:
    errors: list[Exception] = []
    journal = Journal(connect(base / "journal.db"), on_broken=errors.append)
    staging = Staging(base / "staging", max_bytes=None)
    staging.folder.mkdir(exist_ok=True)
    retriever = Retriever(
        journal=journal,
        store=store,
        staging=staging,
        scheduler=Scheduler(),
        roots=roots,
        deadline_s=30.0,
        backoff=Backoff(base_s=0.1, cap_s=1.0),
    )
    added = []
    for number in range(RETRIEVES):
        key = data_key("ns", number * 7)
        roots.path(key).unlink()
        store.own_s, began = 0.0, time.perf_counter()
        answer = await retriever.retrieve(key)
        added.append((time.perf_counter() - began - store.own_s) * 1000)
        assert answer.code == 0, answer.text
    await journal.aclose()
    staging.close()
    p50 = statistics.median(added)
    return Line(
        "missing-data adds to the store's own time, p50",
        f"{p50:.1f} ms",
        "≤ 5 ms",
        p50 <= 5,
        f"most {max(added):.1f} ms",
    )
