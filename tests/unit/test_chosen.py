"""`hookd restore --take remote`: what is here stays until all that is to take its place has come."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from hookd import manifest
from hookd.digest import digest_of
from hookd.files import FileKey, Kind, data_key, index_key
from hookd.restore import aside, restorer
from hookd.restore.local import CHOSEN
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    EXPECTED,
    NS,
    files_of,
    mine,
    store_and_say,
    stored_by_us,
    wipe,
    zdb_and_store,
    zdb_at,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

D1, ACTIVE = data_key(NS, 1), data_key(NS, 3)
WITHOUT = "restored without it, as was chosen"


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED, "not retrieved", "retrieve failed, again", "withdrawn")


async def choose(found: Rig, take: str = "remote") -> int:
    """What `ready` answers after it."""
    await found.survey.choices.choose(NS, take)
    await found.survey.survey()
    return (await found.survey.judge()).code


@pytest.mark.parametrize("lost", [index_key(NS, 1), ACTIVE], ids=str)
async def test_refused_with_files_here(tmp_path: Path, lost: FileKey) -> None:
    """They are in their places, and served again; the words say so."""
    store = await stored_by_us(tmp_path)
    before = files_of(tmp_path)
    gone = store.content.pop(lost)
    async with rig(tmp_path, store) as found:
        assert await choose(found) == 1
        assert "`hookd restore ns --take local` serves what is here" in found.held[NS]
        assert mine(tmp_path) == before
        assert not list(tmp_path.glob(f"*/*/{aside.PREFIX}*"))
        await found.survey.choices.choose(NS, "local")
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert not list(tmp_path.glob(f"*/*/{CHOSEN}"))
    assert mine(tmp_path) == before
    assert before[lost] == gone


class Killed(BaseException):
    """By a signal that nobody can catch."""


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_around_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Files that are here still are never mixed with those that come: the choice is followed anew."""
    stored, store = zdb_and_store(tmp_path)
    for key in stored:  # another history
        path = tmp_path / str(key)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    theirs = files_of(tmp_path)

    def killed(*arguments: object) -> None:
        raise Killed

    async with rig(tmp_path, store, names=(NS,), run=False) as found:
        if when == "before":
            monkeypatch.setattr(aside, "set_aside", killed)
        else:
            monkeypatch.setattr(restorer.Restorer, "_place", killed)
        await found.survey.choices.choose(NS, "remote")
        with pytest.raises(Killed):
            await found.survey.survey()
        takes = dict(found.survey.choices.takes)
        monkeypatch.undo()
    assert mine(tmp_path) == (theirs if when == "before" else {})
    async with rig(tmp_path, store, names=(NS,), full=True) as found:
        found.survey.choices.takes.update(takes)  # as a daemon reads it at its start
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    assert mine(tmp_path) == stored
    kept = {path.name: path.read_bytes() for path in tmp_path.glob(f"*/*/{aside.PREFIX}*/*")}
    assert kept == {key.name: content for key, content in theirs.items()}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("fault", ["gone", "other", "short"])
async def test_all_but_one_closed_data_file(
    tmp_path: Path, logs: Logs, fault: str, full: bool
) -> None:
    """The store has lost it, or has something else: refused, and named, until somebody does without."""
    newest, store = zdb_and_store(tmp_path)
    wipe(tmp_path)
    match fault:
        case "gone":
            del store.content[D1]
        case "other":
            store.content[D1] = newest[D1][:-1] + b"?"
        case "short":
            store.content[D1] = newest[D1][:-20]
    async with rig(tmp_path, store, names=(NS,), full=full, deadline_s=0.3) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        assert "`hookd restore ns --take remote` does without its values" in found.held[NS]
        assert "`hookd restore ns --take local` begins anew, blank" in found.held[NS]
        assert mine(tmp_path) == {}
        logs.expect(WITHOUT)
        assert await choose(found) == 0
        assert "without d1, as was chosen" in found.survey.findings[NS].brought
        for number in range(3):
            expected = 1 if number == 1 else 0
            assert (await found.retriever.retrieve(data_key(NS, number))).code == expected
        assert mine(tmp_path) == {key: each for key, each in newest.items() if key != D1}
        assert (await found.ledger())[D1].digest == digest_of(newest[D1]), "the audit is to say so"
        # the right file is put back: zdb gets it without any restart
        store.content[D1] = newest[D1]
        assert (await found.retriever.retrieve(D1)).code == 0
        assert mine(tmp_path) == newest


async def test_nothing_goes_over_it_meanwhile(
    tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written since is in line, and the dispatcher works: not before it is given up."""
    logs.allow("will retry")
    zdb = zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await store_and_say(found)
    wanted = dict(store.content)
    zdb.churn(NS, 9)
    since = mine(tmp_path)
    changed = [key for key in since if since[key] != wanted[key]]
    get, begun, goes_on = store.get, anyio.Event(), anyio.Event()

    async def slow(key: FileKey, target: Path) -> None:
        if key == ACTIVE:
            begun.set()
            await goes_on.wait()
        await get(key, target)

    monkeypatch.setattr(store, "get", slow)
    async with rig(tmp_path, store, names=(NS,), run=False) as found:
        await found.survey.choices.choose(NS, "remote")
        async with anyio.create_task_group() as group:
            group.start_soon(found.survey.survey)
            await begun.wait()
            for key in changed:
                await found.owe(key, freeze=key.kind is not Kind.DATA)
            found.work()
            await found.eventually(lambda: all(job.attempts for job in found.scheduler))
            assert store.content == wanted
            goes_on.set()
        assert (await found.survey.judge()).code == 0
        await found.empty()
        assert store.content == wanted
        assert all(wanted[key] == content for key, content in mine(tmp_path).items())


async def test_it_is_not_asked_again(tmp_path: Path, logs: Logs) -> None:
    """The manifest names what somebody does without: the next machine comes back by itself."""
    logs.expect(WITHOUT, "some values were lost before it was stored")
    newest, store = zdb_and_store(tmp_path)
    other = data_key(NS, 2)
    del store.content[D1]
    store.content[other] = newest[other][:-1] + b"?"
    wipe(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert await choose(found) == 0
        await found.fence.publish()
    wipe(tmp_path)
    (tmp_path / "journal.db").unlink()
    async with rig(tmp_path, store, names=(NS,), deadline_s=0.3) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        for number, code in ((0, 0), (1, 1), (2, 1)):
            assert (await found.retriever.retrieve(data_key(NS, number))).code == code
        await found.fence.publish()
    assert manifest.decode(store.records[manifest.NAME]).holes == {D1, other}


async def test_what_came_for_a_refused_choice_goes(tmp_path: Path) -> None:
    """With the next start: nothing says what it is, and it takes room."""
    store = await stored_by_us(tmp_path)
    del store.content[ACTIVE]
    async with rig(tmp_path, store) as found:
        assert await choose(found) == 1
        assert list(tmp_path.glob(f"*/*/{CHOSEN}"))
        found.survey.choices.takes.clear()
        await found.survey.survey()
        assert not list(tmp_path.glob(f"*/*/{CHOSEN}"))


@pytest.mark.parametrize(
    ("key", "fault"),
    [(ACTIVE, "gone"), (ACTIVE, "other"), (index_key(NS, 0), "gone"), (index_key(NS, 3), "other")],
    ids=str,
)
async def test_nothing_else_is_done_without(tmp_path: Path, key: FileKey, fault: str) -> None:
    """zdb would append to another file, or end at the gap."""
    store = await stored_by_us(tmp_path)
    content = store.content.pop(key)
    if fault == "other":
        store.content[key] = content[:-1] + bytes([content[-1] ^ 1])
    wipe(tmp_path)
    (tmp_path / "journal.db").unlink()
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert await choose(found) == 1
        assert "does without" not in found.held[NS]
        assert mine(tmp_path) == {}


async def test_the_words_after_an_interrupted_restore(tmp_path: Path) -> None:
    """Nothing is here then: to take that is to begin anew."""
    _, store = zdb_and_store(tmp_path)
    wipe(tmp_path)
    del store.content[index_key(NS, 1)]
    async with rig(tmp_path, store, names=(NS,)) as found:
        for _ in range(2):
            await found.survey.survey()
            assert (await found.survey.judge()).code == 1
            assert "`hookd restore ns --take local` begins anew, blank" in found.held[NS]
