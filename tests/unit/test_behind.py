"""A new machine, and a manifest that is behind the store: the one before died before its next one."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from hookd import manifest
from hookd.backoff import Backoff
from hookd.digest import digest_of
from hookd.errors import StoreUnreachable
from hookd.files import FileKey, Kind, data_key, index_key
from hookd.journal import LedgerEntry
from hookd.publisher import Publisher
from hookd.restore import restorer
from hookd.restore.result import told
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import EXPECTED, NS, entries_of, files_of, wipe, zdb_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

D3 = data_key(NS, 3)
"""The active data file of the last manifest: grown, sealed and stored since."""


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED, "manifest not written, will retry", "it is of the namespace that is here")


def grow(zdb: SilentZdb, *names: str) -> None:
    """What comes after the manifest: sealed files, rewritten old indexes, new ones."""
    for name in names:
        for _ in range(2):
            zdb.churn(name, 6)
            zdb.rotate(name)
        zdb.churn(name, 3)


def behind(folder: Path) -> tuple[dict[FileKey, bytes], MemoryStore]:
    """All is stored, an older state is named, and nothing is here."""
    zdb, store = zdb_at(folder), MemoryStore(concurrency=4)
    files = files_of(folder)
    made = manifest.build(entries_of(files), lineage="l", writer="w", sequence=7)
    store.records[manifest.NAME] = manifest.encode(made)
    grow(zdb, NS)
    newest = files_of(folder)
    store.content.update(newest)
    wipe(folder)
    return newest, store


async def whole(found: Rig, newest: dict[FileKey, bytes]) -> None:
    """The ledger knows what is stored, and zdb gets every file."""
    ledger = await found.ledger()
    assert {key: each.digest for key, each in ledger.items()} == {
        key: digest_of(content) for key, content in newest.items()
    }
    for key in newest:
        if key.kind is Kind.DATA and not found.roots.path(key).exists():
            assert (await found.retriever.retrieve(key)).code == 0, key
    assert files_of(found.folder) == newest


async def test_what_is_stored_counts(tmp_path: Path) -> None:
    """Here, and in the manifest that the next machine reads."""
    newest, store = behind(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        await whole(found, newest)
    assert manifest.decode(store.records[manifest.NAME]).files[D3].digest == digest_of(newest[D3])


async def test_a_store_that_stumbles(tmp_path: Path) -> None:
    """One failure after the store was taken over: what its manifest said is not what we have stored."""
    zdb = SilentZdb.at(tmp_path)
    names = ("zdbfs-data", "zdbfs-meta")
    for name in names:
        zdb.create(name)
        grow(zdb, name)
    files, store = files_of(tmp_path), MemoryStore()
    named: list[LedgerEntry] = []
    for name in names:
        named += entries_of({k: each for k, each in files.items() if k.namespace == name})
    made = manifest.build(named, lineage="l", writer="w", sequence=7)
    store.records[manifest.NAME] = manifest.encode(made)
    grow(zdb, *names)
    newest = files_of(tmp_path)
    store.content.update(newest)
    wipe(tmp_path)
    get, failed = store.get, list[FileKey]()

    async def stumbles(key: FileKey, target: Path) -> None:
        if key == index_key("zdbfs-meta", 1) and not failed:
            failed.append(key)
            raise StoreUnreachable("get", key, "connection reset")
        await get(key, target)

    store.get = stumbles  # type: ignore[method-assign]
    for refused in (["zdbfs-meta"], []):
        async with rig(tmp_path, store, names=names) as found:
            assert await found.survey.by_hand() is None
            result = told(found.survey.findings, None, found.survey.unread)
            assert [*result.refused] == refused
    async with rig(tmp_path, store, names=names) as found:
        await whole(found, newest)


class Killed(BaseException):
    """By a signal that nobody can catch."""


async def test_killed_while_they_are_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is here then, or nearly, and the next start looks no closer: the ledger has to know before."""
    newest, store = behind(tmp_path)
    async with rig(tmp_path, store, names=(NS,), run=False) as found:

        def killed(*arguments: object) -> None:
            raise Killed

        monkeypatch.setattr(restorer, "forget_fetched", killed)  # right after the last is placed
        with pytest.raises(Killed):
            await found.survey.survey()
        monkeypatch.undo()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        await whole(found, newest)


async def test_a_ledger_that_believed_it(tmp_path: Path) -> None:
    """Of a file that no job of ours has put, and that was not whole, the indexes here say which it is."""
    newest, store = behind(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        believed = LedgerEntry(key=D3, size_bytes=50, digest=bytes(16), stored_at=1.0, sealed=False)
        await found.journal.adopt([believed])
        assert (await found.retriever.retrieve(D3)).code == 0
        await whole(found, newest)


async def test_another_file_than_it_believed(tmp_path: Path, logs: Logs) -> None:
    """Then zdb does not get it."""
    logs.expect("not retrieved")
    newest, store = behind(tmp_path)
    async with rig(tmp_path, store, names=(NS,), deadline_s=0.3) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        believed = LedgerEntry(key=D3, size_bytes=50, digest=bytes(16), stored_at=1.0, sealed=False)
        await found.journal.adopt([believed])
        store.content[D3] = newest[data_key(NS, 2)]
        answer = await found.retriever.retrieve(D3)
        assert answer.code == 1
        assert "is not what the indexes here point into" in answer.text
        assert not found.roots.path(D3).exists()


async def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    """While the fence compares: the manifest is written a little later."""
    zdb_at(tmp_path)
    async with rig(tmp_path, MemoryStore(), run=False) as found:
        namespaces, failures = found.roots.namespaces, [1, 2]

        def fails() -> list[str]:
            if failures:
                failures.pop()
                raise OSError(24, "Too many open files")
            return namespaces()

        object.__setattr__(found.roots, "namespaces", fails)
        found.fence.changed()
        async with anyio.create_task_group() as group:
            group.start_soon(Publisher(found.fence, Backoff(base_s=0.01, cap_s=0.1)).run)
            await found.eventually(lambda: found.fence.published_at is not None)
            group.cancel_scope.cancel()
