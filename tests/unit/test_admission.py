"""Admission: an answer of 0 follows the commit, an event is done once, and none is dropped."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd.admission import AT_ONCE_BYTES
from hookd.digest import digest_of
from hookd.errors import JournalUnavailable, StoreTemporary
from hookd.event import HOOKS
from hookd.files import data_key, index_key, namespace_key
from hookd.journal import EventRow, Outcome
from hookd.snapshot import INLINE_BYTES, Snapshot
from hookd.wire import ANSWER_SPOOL, Answer
from tests.conftest import Logs
from tests.fakes.disk import fill, small_disk
from tests.fakes.rig import Rig, rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

REFUSED = "refused"
HELD = "held"
LATER = "no snapshot, will freeze later"
SPOOLS = "cannot commit, the shim spools"


async def event_of(found: Rig, seq: int = 1) -> EventRow:
    row = await found.journal.find_event(seq)
    assert row is not None
    return row


def count(found: Rig, table: str) -> int:
    [(number,)] = found.rows(f"SELECT count(*) FROM {table}")
    return int(number)


class TestCommitted:
    async def test_jump_index(self, tmp_path: Path) -> None:
        """0 means: the event and a job for each index are committed, with frozen copies."""
        async with rig(tmp_path, run=False) as found:
            keys = [found.index(2), found.index(0)]
            data = found.data(2)
            assert await found.admit(found.jumped(2, "0")) == Answer(0, "")
            row = await event_of(found)
            assert (row.argv[0], row.answer, row.outcome) == ("jump-index", 0, Outcome.ACCEPTED)
            jobs = await found.journal.open_jobs()
            assert [job.key for job in jobs] == keys
            for job in jobs:
                assert job.event == 1
                assert job.staged is not None
                assert found.staging.path(job.staged).read_bytes() == found.live(job.key)
                assert job.digest == digest_of(found.live(job.key))
                assert (job.needs, job.needs_bytes) == (2, len(found.live(data)))
            assert [job.key for job in found.scheduler] == keys

    async def test_jump_data(self, tmp_path: Path) -> None:
        """A sealed data file is not copied: its job reads the live file later."""
        async with rig(tmp_path, run=False) as found:
            key = found.data(0)
            assert await found.admit(found.sealed(0)) == Answer(0, "")
            [job] = found.scheduler
            assert (job.key, job.sealed, job.staged, job.freeze) == (key, True, None, False)
            assert job.size_bytes == len(found.live(key))
            assert found.staged() == []

    async def test_namespace_closing(self, tmp_path: Path) -> None:
        """The active files, what was rewritten and the descriptor, all frozen: zdb may start again."""
        async with rig(tmp_path, run=False) as found:
            keys = [found.data(1), found.index(1), found.index(0), found.descriptor()]
            found.data(0)
            assert await found.admit(found.closing(1, "0")) == Answer(0, "")
            assert [job.key for job in found.scheduler] == keys
            assert len(found.staged()) == 4
            assert not any(job.sealed for job in found.scheduler)

    async def test_answer_after_the_commit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody is answered and no job runs before the commit has returned."""
        async with rig(tmp_path, run=False) as found:
            found.index(0)
            real = found.journal.append
            gate, reached = asyncio.Event(), asyncio.Event()

            async def append(*args: Any) -> int:
                seq = await real(*args)
                reached.set()
                await gate.wait()
                return seq

            monkeypatch.setattr(found.journal, "append", append)
            answer = asyncio.ensure_future(found.admit(found.jumped(0)))
            await reached.wait()
            assert not answer.done()
            assert len(found.scheduler) == 0
            gate.set()
            assert await answer == Answer(0, "")
            assert len(found.scheduler) == 1

    @pytest.mark.parametrize("hook", ["close", "crash"])
    async def test_nothing_to_store(self, tmp_path: Path, hook: str) -> None:
        """Events without files are kept too, and the drain hears of them."""
        async with rig(tmp_path, run=False) as found:
            assert await found.admit(found.frame(hook)) == Answer(0, "")
            assert (await event_of(found)).argv[0] == hook
            assert len(found.seen) == 1
            assert len(found.scheduler) == 0

    async def test_from_the_spool(self, tmp_path: Path) -> None:
        """Where an event came from is kept with it."""
        async with rig(tmp_path, run=False) as found:
            await found.admit(found.frame("close"), "spool")
            assert (await event_of(found)).origin == "spool"

    async def test_large_files(self, tmp_path: Path) -> None:
        """Files beyond what is copied on the loop are frozen in a thread, and as exact."""
        async with rig(tmp_path, run=False) as found:
            contents = [os.urandom(AT_ONCE_BYTES), os.urandom(INLINE_BYTES + 1), b"small" * 10]
            keys = [found.index(number, content) for number, content in enumerate(contents)]
            found.data(2)
            await found.admit(found.jumped(2, "0 1"))
            by_key = {job.key: job for job in found.scheduler}
            for key, content in zip(keys, contents, strict=True):
                assert by_key[key].digest == digest_of(content)

    async def test_ten_thousand_dirty_files(self, tmp_path: Path) -> None:
        """A long list is one commit; files of it that are not there are kept as owed."""
        async with rig(tmp_path, run=False) as found:
            found.data(10_000)
            for number in (0, 5000, 10_000):
                found.index(number)
            ids = " ".join(map(str, range(10_000)))
            started = time.monotonic()
            assert await found.admit(found.jumped(10_000, ids)) == Answer(0, "")
            assert time.monotonic() - started < 5
            assert count(found, "jobs") == 10_001
            assert count(found, "events") == 1
            assert len(found.staged()) == 3
            assert sum(job.freeze for job in found.scheduler) == 9998

    async def test_relative_paths(self, tmp_path: Path) -> None:
        """zdb's paths are relative to where it was started."""
        async with rig(tmp_path, run=False) as found:
            found.data(0)
            frame = found.frame("jump-data", "data/ns/d0", "data/ns/d1")
            frame = type(frame)(frame.event_id, frame.argv, str(tmp_path), 5000)
            assert await found.admit(frame) == Answer(0, "")
            assert [job.key for job in found.scheduler] == [data_key("ns", 0)]


class TestOnce:
    async def test_again(self, tmp_path: Path) -> None:
        """The same id again gets the answer of the first time, and causes nothing."""
        async with rig(tmp_path, run=False) as found:
            found.data(0)
            frame = found.sealed(0)
            assert await found.admit(frame) == Answer(0, "")
            assert await found.admit(frame, "spool") == Answer(0, "")
            assert count(found, "events") == count(found, "jobs") == 1
            assert found.admission.tally.duplicate == 1
            assert len(found.seen) == 1

    async def test_at_the_same_time(self, tmp_path: Path) -> None:
        """While the first is worked on, others with its id wait for it and get its answer."""
        async with rig(tmp_path, run=False) as found:
            found.actions.gate = asyncio.Event()  # type: ignore[assignment]
            found.actions.answers["judge"] = Answer(1, "zdb may not serve")
            frame = found.frame("ready")
            calls = [asyncio.ensure_future(found.admit(frame)) for _ in range(5)]
            await asyncio.sleep(0.01)
            assert found.admission.busy == 1
            assert not any(call.done() for call in calls)
            found.actions.gate.set()  # type: ignore[union-attr]
            answers = await asyncio.gather(*calls)
            assert answers == [Answer(1, "zdb may not serve")] * 5
            assert found.actions.done == ["judge"]
            assert (count(found, "events"), found.admission.busy) == (1, 0)

    @pytest.mark.parametrize("code", [0, 1])
    async def test_after_a_restart(self, tmp_path: Path, logs: Logs, code: int) -> None:
        """A shim that comes again after the daemon was killed gets the committed answer."""
        if code:
            logs.expect(LATER)
        async with rig(tmp_path, run=False, staging_bytes=None if code == 0 else 0) as found:
            found.index(0)
            frame = found.jumped(0)
            assert (await found.admit(frame)).code == code
        async with rig(tmp_path, run=False) as found:
            assert (await found.admit(frame)).code == code
            assert count(found, "events") == count(found, "jobs") == 1

    async def test_killed_while_it_was_worked_on(self, tmp_path: Path) -> None:
        """A blocking event without an answer is done anew, under its first row."""
        async with rig(tmp_path, run=False) as found:
            found.actions.gate = asyncio.Event()  # type: ignore[assignment]
            frame = found.frame("ready")
            call = asyncio.ensure_future(found.admit(frame))
            while not found.actions.done:
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert (await event_of(found)).answer is None
        async with rig(tmp_path, run=False) as found:
            found.actions.answers["judge"] = Answer(1, "no")
            assert await found.admit(frame) == Answer(1, "no")
            assert count(found, "events") == 1
            assert (await event_of(found)).answer == 1

    async def test_first_one_is_cancelled(self, tmp_path: Path) -> None:
        """A second caller of an event whose first was cancelled does not hang."""
        async with rig(tmp_path, run=False) as found:
            found.actions.gate = asyncio.Event()  # type: ignore[assignment]
            frame = found.frame("ready")
            first, second = (asyncio.ensure_future(found.admit(frame)) for _ in range(2))
            while not found.actions.done:
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(second, 5)
            assert found.admission.busy == 0

    async def test_memory_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest ids are forgotten beyond the limit, the newest never."""
        monkeypatch.setattr("hookd.recall.REMEMBER_EVENTS", 10)
        async with rig(tmp_path, run=False) as found:
            frames = [found.frame("close") for _ in range(25)]
            for frame in frames:
                await found.admit(frame)
            assert len(found.admission.recall) <= 11
            await found.admit(frames[-1])
            assert found.admission.tally.duplicate == 1
            await found.admit(frames[0], "spool")  # the journal knows it still
            assert found.admission.tally.duplicate == 2
            assert found.rows("SELECT count(*) FROM events") == [(25,)]


class TestRefused:
    @pytest.mark.parametrize(
        "argv",
        [
            ("jump-data", "/etc/passwd", "/etc/shadow"),
            ("jump-data", "{data}/ns/../../../etc/d0", "x"),
            ("jump-index", "{data}/ns/d0", "x", ""),
            ("jump-index", "{index}/ns/i0", "x", "0 x"),
            ("missing-data", "{data}/d0"),
            ("namespace-created", "../../etc"),
            ("namespace-closing", "other", "{index}/ns/i0", "{data}/ns/d0", ""),
            ("jump-data",),
        ],
        ids=lambda argv: argv[0],
    )
    async def test_kept_and_answered_1(
        self, tmp_path: Path, logs: Logs, argv: tuple[str, ...]
    ) -> None:
        """What zdb never sends causes nothing, is kept with its reason, and answered 1."""
        logs.expect(REFUSED)
        async with rig(tmp_path, run=False) as found:
            places = {"data": found.roots.data, "index": found.roots.index}
            frame = found.frame(argv[0], *(text.format(**places) for text in argv[1:]))
            answer = await found.admit(frame)
            assert answer.code == 1
            row = await event_of(found)
            assert (row.outcome, row.answer, row.note) == (Outcome.REFUSED, 1, answer.text)
            assert count(found, "jobs") == 0
            assert found.actions.done == []
            assert await found.admit(frame) == Answer(1, "")

    async def test_bytes_that_are_no_text(self, tmp_path: Path, logs: Logs) -> None:
        """A name that the journal cannot hold is refused and kept, not spooled for ever."""
        logs.expect(REFUSED)
        async with rig(tmp_path, run=False) as found:
            name = os.fsdecode(b"\xff\xfe")
            frames = [
                found.frame("namespace-created", name),
                found.frame("jump-data", f"{found.roots.data}/{name}/d0", "x"),
                found.frame("namespace-closing", name, f"{found.roots.index}/ns/i0",
                            f"{found.roots.data}/ns/d0", ""),
            ]  # fmt: skip
            for frame in frames:
                assert (await found.admit(frame)).code == 1
            assert count(found, "events") == 3

    async def test_links(self, tmp_path: Path, logs: Logs) -> None:
        """A link in a file's place is refused before anything is read."""
        logs.expect(REFUSED)
        async with rig(tmp_path, run=False) as found:
            (tmp_path / "secret").write_text("s")
            found.data(1)
            found.roots.path(data_key("ns", 0)).symlink_to(tmp_path / "secret")
            assert (await found.admit(found.sealed(0))).code == 1
            assert len(found.scheduler) == 0

    async def test_a_link_among_others(self, tmp_path: Path, logs: Logs) -> None:
        """Only the link is refused; the rest is kept, and zdb keeps its list of rewritten files."""
        logs.expect("refused a file, the others are kept")
        async with rig(tmp_path, run=False) as found:
            (tmp_path / "secret").write_text("s")
            found.data(3)
            kept = [found.index(3), found.index(0), found.index(2)]
            found.roots.path(index_key("ns", 1)).symlink_to(tmp_path / "secret")
            frame = found.jumped(3, "0 1 2")
            answer = await found.admit(frame)
            assert answer.code == 1
            assert answer.text.endswith("ns/i1' refused: it is a symbolic link")
            assert [job.key for job in await found.journal.open_jobs()] == kept
            assert all(job.staged is not None for job in found.scheduler)
            row = await event_of(found)
            assert (row.outcome, row.answer, row.note) == (Outcome.ACCEPTED, 1, answer.text)
            assert found.admission.tally.refused == 1
            assert (await found.admit(frame)).code == 1
            assert count(found, "jobs") == 3

    async def test_links_without_end(self, tmp_path: Path, logs: Logs) -> None:
        """The answer stays short."""
        logs.expect("refused a file, the others are kept")
        async with rig(tmp_path, run=False) as found:
            found.data(100)
            kept = found.index(100)
            for number in range(100):
                found.roots.path(index_key("ns", number)).symlink_to(tmp_path / "secret")
            answer = await found.admit(found.jumped(100, " ".join(map(str, range(100)))))
            assert answer.code == 1
            assert len(answer.text) <= 1000
            assert [job.key for job in found.scheduler] == [kept]


class TestUnknown:
    async def test_kept_and_answered_0(self, tmp_path: Path, logs: Logs) -> None:
        """A hook of a later zdb is kept whole and answered 0: zdb must not stop for it."""
        logs.expect("unknown hook, kept")
        async with rig(tmp_path, run=False) as found:
            frame = found.frame("flushed", "ns", os.fsdecode(b"\xff"))
            assert await found.admit(frame) == Answer(0, "")
            row = await event_of(found)
            assert (row.outcome, row.argv) == (Outcome.UNKNOWN, frame.argv)
            assert found.admission.tally.unknown == 1

    async def test_names_are_bounded(self, tmp_path: Path, logs: Logs) -> None:
        """Made-up names do not grow the counts without end."""
        logs.expect("unknown hook, kept")
        async with rig(tmp_path, run=False) as found:
            for number in range(50):
                await found.admit(found.frame(f"hook-{number}"))
            assert found.admission.tally.by_hook == {"unknown": 50}
            assert "unknown" not in HOOKS


class TestNamespaces:
    async def test_skipped(self, tmp_path: Path) -> None:
        """A namespace to skip is kept as an event, and nothing of it is stored."""
        async with rig(tmp_path, run=False, skip=frozenset({"ns"})) as found:
            found.data(0)
            assert await found.admit(found.sealed(0)) == Answer(0, "")
            assert (count(found, "events"), count(found, "jobs")) == (1, 0)

    @pytest.mark.parametrize("hook", ["jump-index", "namespace-closing", "namespace-updated"])
    async def test_held(self, tmp_path: Path, logs: Logs, hook: str) -> None:
        """A held namespace's event is kept as held, with why; nothing is frozen or stored."""
        logs.expect(HELD)
        async with rig(tmp_path, run=False) as found:
            found.held["ns"] = "half of it is gone"
            found.index(0)
            found.data(0)
            frames = {
                "jump-index": found.jumped(0),
                "namespace-closing": found.closing(0),
                "namespace-updated": found.frame("namespace-updated", "ns"),
            }
            assert await found.admit(frames[hook]) == Answer(0, "")
            row = await event_of(found)
            assert (row.outcome, row.note) == (Outcome.HELD, "half of it is gone")
            assert (count(found, "jobs"), found.staged()) == (0, [])
            assert found.admission.tally.held == 1

    async def test_deleted(self, tmp_path: Path) -> None:
        """The deletion is carried out before the event is answered for good."""
        async with rig(tmp_path, run=False) as found:
            assert await found.admit(found.frame("namespace-deleted", "ns")) == Answer(0, "")
            assert found.actions.done == ["withdraw ns"]

    async def test_deletion_fails(self, tmp_path: Path, logs: Logs) -> None:
        """A deletion that cannot be carried out is not taken: the shim spools, and it is done then."""
        logs.expect(SPOOLS)
        async with rig(tmp_path, run=False) as found:
            found.actions.fault = JournalUnavailable("disk full")
            frame = found.frame("namespace-deleted", "ns")
            assert (await found.admit(frame)).code == ANSWER_SPOOL
            found.actions.fault = None
            assert await found.admit(frame, "spool") == Answer(0, "")
            assert found.actions.done == ["withdraw ns"] * 2
            assert count(found, "events") == 1

    async def test_reloaded(self, tmp_path: Path) -> None:
        """A reload stores the descriptor and looks for unannounced files."""
        async with rig(tmp_path, run=False) as found:
            found.descriptor()
            assert await found.admit(found.frame("namespace-reloaded", "ns")) == Answer(0, "")
            assert found.actions.done == ["scan"]
            assert [job.key for job in found.scheduler] == [namespace_key("ns")]

    async def test_no_descriptor(self, tmp_path: Path) -> None:
        """A descriptor that is gone already (created, then deleted) is not owed."""
        async with rig(tmp_path, run=False) as found:
            assert await found.admit(found.frame("namespace-created", "ns")) == Answer(0, "")
            assert (count(found, "events"), count(found, "jobs")) == (1, 0)


class TestDeletedMeanwhile:
    async def test_commits_in_its_order(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that froze a file before the deletion is in line before it is followed, and given up
        with the rest; one that comes meanwhile freezes what is there afterwards.
        """
        logs.expect("withdrawn")
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            found.index(0, b"old" * 20)
            first = asyncio.ensure_future(found.admit(found.jumped(0)))
            await gates.reached(0)
            lines: list[list[bytes | None]] = []

            async def withdraw(namespace: str) -> None:
                lines.append([job.digest for job in found.scheduler])
                await found.dispatcher.departures.disown(namespace, "deleted", retire=True)

            monkeypatch.setattr(found.actions, "withdraw", withdraw)
            deletion = asyncio.ensure_future(found.admit(found.frame("namespace-deleted", "ns")))
            await asyncio.sleep(0)
            second = asyncio.ensure_future(found.admit(found.jumped(0)))
            await asyncio.sleep(0.01)
            assert (deletion.done(), gates.frozen[1].is_set()) == (False, False)
            found.index(0, b"new" * 20)
            for gate in gates.gates:
                gate.set()
            for each in (first, deletion, second):
                assert await each == Answer(0, "")
            assert lines == [[digest_of(b"old" * 20)]]
            assert [job.digest for job in found.scheduler] == [digest_of(b"new" * 20)]

    async def test_of_another_namespace(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody else waits for a deletion."""
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            found.index(0)
            other = asyncio.ensure_future(found.admit(found.jumped(0)))
            await gates.reached(0)
            assert await found.admit(found.frame("namespace-deleted", "gone")) == Answer(0, "")
            gates.gates[0].set()
            assert await other == Answer(0, "")

    async def test_fails(self, tmp_path: Path, logs: Logs) -> None:
        """A deletion that could not be followed keeps nobody waiting."""
        logs.expect(SPOOLS)
        async with rig(tmp_path, run=False) as found:
            found.index(0)
            found.actions.fault = JournalUnavailable("disk full")
            deleted = found.frame("namespace-deleted", "ns")
            assert (await found.admit(deleted)).code == ANSWER_SPOOL
            assert await found.admit(found.jumped(0)) == Answer(0, "")


class TestHalfMade:
    async def test_is_frozen_later(self, tmp_path: Path) -> None:
        """A late event may name a file that zdb is making anew: kept, and frozen once it is whole."""
        async with rig(tmp_path, backoff_s=0.01) as found:
            key = found.index(0)
            found.roots.path(key).write_bytes(b"")
            found.data(0)
            answer = await found.admit(found.closing(0))
            assert (answer.code, count(found, "events")) == (0, 1)
            found.write(key, b"new" * 20)
            await found.until(lambda: found.store.content.get(key) == b"new" * 20)


class TestAbsent:
    async def test_index(self, tmp_path: Path) -> None:
        """An index that is not there is owed all the same, visibly: it is looked for again later."""
        async with rig(tmp_path, run=False) as found:
            found.data(0)
            assert await found.admit(found.jumped(0)) == Answer(0, "")
            [job] = found.scheduler
            assert (job.freeze, job.staged, job.size_bytes) == (True, None, None)

    async def test_whole_namespace(self, tmp_path: Path) -> None:
        """So are the files of a namespace that is gone."""
        async with rig(tmp_path, run=False) as found:
            assert await found.admit(found.closing(0)) == Answer(0, "")
            assert [job.key for job in found.scheduler] == [data_key("ns", 0), index_key("ns", 0)]


class TestNoRoom:
    @pytest.mark.parametrize("limit", [0, 150])
    async def test_jump_index(self, tmp_path: Path, logs: Logs, limit: int) -> None:
        """Without room jump-index says 1 (zdb keeps its list), but event and jobs are kept: zdb never
        names the closed file again.
        """
        logs.expect(LATER)
        async with rig(tmp_path, run=False, staging_bytes=limit) as found:
            for number in range(2):
                found.index(number, b"x" * 100)
            found.data(1)
            answer = await found.admit(found.jumped(1, "0"))
            assert answer.code == 1
            assert "no snapshot" in answer.text
            assert found.staged() == []
            jobs = await found.journal.open_jobs()
            assert [(job.key.number, job.freeze, job.staged) for job in jobs] == [
                (1, True, None), (0, True, None),
            ]  # fmt: skip
            assert (await event_of(found)).answer == 1
            assert found.admission.tally.deferred == 1

    async def test_and_it_is_stored_later(self, tmp_path: Path, logs: Logs) -> None:
        """What was kept without a copy ends in the store when there is room."""
        logs.expect(LATER)
        async with rig(tmp_path, run=False, staging_bytes=0) as found:
            keys = [found.index(0), found.data(0)]
            await found.admit(found.jumped(0))
            await found.admit(found.sealed(0))
        async with rig(tmp_path) as found:
            await found.empty()
            assert set(found.store.content) == set(keys)

    async def test_namespace_closing(self, tmp_path: Path, logs: Logs) -> None:
        """zdb ends in any case: 0, and everything is kept."""
        logs.expect(LATER)
        async with rig(tmp_path, run=False, staging_bytes=0) as found:
            found.index(0)
            found.data(0)
            found.descriptor()
            assert (await found.admit(found.closing(0))).code == 0
            jobs = await found.journal.open_jobs()
            assert [job.key.name for job in jobs] == ["d0", "i0", "zdb-namespace"]
            assert all(job.freeze for job in jobs)

    async def test_disk_full(self, tmp_path: Path, logs: Logs) -> None:
        """A staging disk that is full is the same."""
        logs.expect(LATER)
        with small_disk(tmp_path / "staging", size_kib=256) as disk:
            async with rig(tmp_path, run=False) as found:
                found.index(0, os.urandom(100_000))
                found.data(0)
                fill(disk, leave_kib=16)
                assert (await found.admit(found.jumped(0))).code == 1
                assert len(found.scheduler) == 1
                assert found.staging.size_bytes == 0

    @pytest.mark.parametrize("error", [StoreTemporary("freeze", "i0", "kept changing"), OSError(5)])
    async def test_other_trouble(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """A file that never stands still, or a disk that errs, is kept for later as well."""
        logs.expect(LATER)
        async with rig(tmp_path, run=False) as found:
            found.index(0)
            found.data(0)

            def freeze(_: Sequence[Path]) -> list[Snapshot | None]:
                raise error

            monkeypatch.setattr(found.staging, "freeze", freeze)
            assert (await found.admit(found.jumped(0))).code == 1
            assert [job.freeze for job in found.scheduler] == [True]


class TestJournalFails:
    async def test_disk_full(self, tmp_path: Path, logs: Logs) -> None:
        """Nothing can be committed: the shim is told to spool, and nothing is left of the attempt."""
        logs.expect(SPOOLS)
        async with rig(tmp_path, run=False) as found:
            found.index(0)
            found.data(0)

            async def append(*_: Any) -> int:
                raise JournalUnavailable("database or disk is full")

            frame = found.jumped(0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(found.journal, "append", append)
                answer = await found.admit(frame)
            assert answer.code == ANSWER_SPOOL
            assert "full" in answer.text
            assert (found.staged(), found.staging.size_bytes) == ([], 0)
            assert len(found.scheduler) == 0
            assert await found.admit(frame, "spool") == Answer(0, "")
            assert len(found.scheduler) == 1

    async def test_blocking_hooks_go_on(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """zdb gets its data back, and its judgement, also when the journal's disk is full."""
        logs.expect("cannot commit, goes on without")

        async def append(*_: Any) -> int:
            raise JournalUnavailable("disk full")

        async with rig(tmp_path, run=False) as found:
            monkeypatch.setattr(found.journal, "append", append)
            path = str(found.roots.path(data_key("ns", 0)))
            frames = [
                found.frame("namespaces-init", "i", "d"),
                found.frame("ready"),
                found.frame("missing-data", path),
            ]
            for frame in frames:
                assert await found.admit(frame) == Answer(0)
            assert found.actions.done == ["survey", "judge", "retrieve data/ns/d0"]

    async def test_answer_not_kept(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An answer that cannot be written down is given all the same; asked again it is worked out."""
        logs.expect("answer not kept")
        async with rig(tmp_path, run=False) as found:

            async def answered(*_: Any) -> None:
                raise JournalUnavailable("disk full")

            monkeypatch.setattr(found.journal, "answered", answered)
            frame = found.frame("ready")
            for _ in range(2):
                assert await found.admit(frame) == Answer(0)
            assert found.actions.done == ["judge", "judge"]

    async def test_fault_of_ours(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bug does not lose the event: the shim keeps it."""
        logs.expect("internal error, the shim spools")
        async with rig(tmp_path, run=False) as found:

            def seen(_: object) -> None:
                raise ValueError("bug")

            monkeypatch.setattr(found.admission, "_seen", seen)
            answer = await found.admit(found.frame("close"))
            assert answer.code == ANSWER_SPOOL
            assert (count(found, "events"), found.admission.busy) == (0, 0)

    async def test_real_database_error(self, tmp_path: Path, logs: Logs) -> None:
        """What SQLite refuses is the same to the shim."""
        logs.expect(SPOOLS)
        async with rig(tmp_path, run=False) as found:
            found.journal._db.execute("PRAGMA query_only = 1")
            assert (await found.admit(found.frame("close"))).code == ANSWER_SPOOL
            found.journal._db.execute("PRAGMA query_only = 0")
            assert (await found.admit(found.frame("close"))).code == 0


class TestBlocking:
    async def test_each_gets_its_work(self, tmp_path: Path) -> None:
        """namespaces-init surveys, ready judges, missing-data retrieves; the answer is theirs, kept."""
        async with rig(tmp_path, run=False) as found:
            path = str(found.roots.path(data_key("ns", 3)))
            found.actions.answers = {"retrieve data/ns/d3": Answer(1, "not there")}
            assert await found.admit(found.frame("namespaces-init", "i", "d")) == Answer(0)
            assert await found.admit(found.frame("ready")) == Answer(0)
            assert await found.admit(found.frame("missing-data", path)) == Answer(1, "not there")
            assert found.actions.done == ["survey", "judge", "retrieve data/ns/d3"]
            assert found.rows("SELECT answer FROM events ORDER BY seq") == [(0,), (0,), (1,)]

    async def test_kept_before_the_work(self, tmp_path: Path) -> None:
        """The event is committed before its work begins."""
        async with rig(tmp_path, run=False) as found:
            found.actions.gate = asyncio.Event()  # type: ignore[assignment]
            call = asyncio.ensure_future(found.admit(found.frame("ready")))
            while not found.actions.done:
                await asyncio.sleep(0)
            assert (await event_of(found)).answer is None
            found.actions.gate.set()  # type: ignore[union-attr]
            assert await call == Answer(0)


class Gates:
    """Holds back chosen calls of `Staging.freeze`, in their threads."""

    def __init__(self, found: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gates: list[threading.Event] = []
        self.frozen: list[threading.Event] = []
        real: Callable[..., Any] = found.staging.freeze
        calls = iter(range(100))

        def freeze(sources: Sequence[Path]) -> Any:
            number = next(calls)
            made = real(sources)
            self.frozen[number].set()
            assert self.gates[number].wait(10)
            return made

        monkeypatch.setattr(found.staging, "freeze", freeze)
        monkeypatch.setattr("hookd.admission.AT_ONCE_FILES", 0)
        for _ in range(4):
            self.gates.append(threading.Event())
            self.frozen.append(threading.Event())

    async def reached(self, number: int) -> None:
        assert await asyncio.to_thread(self.frozen[number].wait, 10)


class TestSameFileTwice:
    async def start(self, found: Rig, frame: Any, gates: Gates, number: int) -> Any:
        call = asyncio.ensure_future(found.admit(frame))
        await gates.reached(number)
        return call

    async def overtaken(self, found: Rig, gates: Gates) -> Any:
        """An event of i1 and i0 that is still frozen (gate 0), after a later one of i2 and i0 ended."""
        for number in range(3):
            found.index(number)
        first = await self.start(found, found.jumped(1, "0"), gates, 0)
        second = await self.start(found, found.jumped(2, "0"), gates, 1)
        gates.gates[1].set()
        await second
        return first

    async def test_end_in_the_other_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event frozen first and committed last does not bring its older copy after the newer."""
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            key = found.index(0, b"old" * 20)
            found.data(0)
            found.index(1)
            first = await self.start(found, found.jumped(0), gates, 0)
            found.index(0, b"new" * 20)
            second = await self.start(found, found.jumped(0), gates, 1)
            gates.gates[1].set()
            assert await second == Answer(0, "")
            gates.gates[0].set()
            assert await first == Answer(0, "")
            [job] = found.scheduler
            assert job.digest == digest_of(b"new" * 20)
            assert count(found, "events") == 2
            await found.eventually(lambda: len(found.staged()) == 1)
            await found.admit(found.sealed(0))
            found.work()
            await found.empty()
            assert found.store.content[key] == b"new" * 20

    async def test_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the usual order the newer one takes the place of the older one."""
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            found.index(0, b"old" * 20)
            first = await self.start(found, found.jumped(0), gates, 0)
            found.index(0, b"new" * 20)
            second = await self.start(found, found.jumped(0), gates, 1)
            gates.gates[0].set()
            await first
            gates.gates[1].set()
            await second
            [job] = found.scheduler
            assert job.digest == digest_of(b"new" * 20)
            await found.eventually(lambda: len(found.staged()) == 1)

    async def test_only_the_shared_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the event that ended last only the overtaken file is left out."""
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            first = await self.overtaken(found, gates)
            gates.gates[0].set()
            await first
            names = sorted(job.key.name for job in found.scheduler)
            assert names == ["i0", "i1", "i2"]
            [kept] = [job for job in found.scheduler if job.key.name == "i0"]
            assert kept.event == 1

    async def test_a_late_freeze_between(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor after a copy that a worker has made and stored meanwhile, also over a restart."""
        old, new = b"old" * 20, b"new" * 20
        async with rig(tmp_path, run=False) as found:
            found.data(0)
            key = found.index(0, old)
            found.index(1)
            store = found.store
            gates = Gates(found, monkeypatch)
            first = await self.start(found, found.jumped(0), gates, 0)
            found.index(0, new)
            await found.admit(found.sealed(0))
            await found.owe(key, freeze=True)
            gates.gates[1].set()
            found.work()
            await found.until(lambda: store.content.get(key) == new)
            await found.empty()
            found.dispatcher.paused = True
            gates.gates[0].set()
            assert await first == Answer(0, "")
        async with rig(tmp_path, store) as found:
            await found.empty()
            assert store.content[key] == new
            assert found.states()[-1] == (str(key), "superseded")
            assert found.staged() == []

    async def test_one_whose_commit_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
    ) -> None:
        """An event that could not be kept stands for no other: the earlier one has its job."""
        logs.expect(SPOOLS)
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            key = found.index(0)
            first = await self.start(found, found.jumped(0), gates, 0)
            second = await self.start(found, found.jumped(0), gates, 1)
            with monkeypatch.context() as full:
                full.setattr(found.journal, "append", refuse)
                gates.gates[1].set()
                assert (await second).code == ANSWER_SPOOL
            gates.gates[0].set()
            assert await first == Answer(0, "")
            [job] = found.scheduler
            assert (job.key, job.staged is not None) == (key, True)

    async def test_in_line_whatever_fails_afterwards(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is committed is in line: a copy that cannot be removed keeps no job out."""
        async with rig(tmp_path, run=False) as found:
            gates = Gates(found, monkeypatch)
            first = await self.overtaken(found, gates)

            def broken(staged: object) -> None:
                raise OSError(errno.EIO, "Input/output error")

            monkeypatch.setattr(found.staging, "remove", broken)
            gates.gates[0].set()
            assert await first == Answer(0, "")
            assert sorted(job.key.name for job in found.scheduler) == ["i0", "i1", "i2"]

    async def test_cancelled_at_the_commit(self, tmp_path: Path) -> None:
        """Whoever reads the spool may be stopped: what was committed then is in line all the same."""
        async with rig(tmp_path, run=False) as found:
            key = found.data(0)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await found.admit(found.sealed(0), "spool")
            assert [job.key for job in found.scheduler] == [key]
            assert found.states() == [(str(key), "pending")]


async def refuse(*_: object) -> int:
    raise JournalUnavailable("database or disk is full")


async def test_sqlite_takes_every_hook(tmp_path: Path, logs: Logs) -> None:
    """Every hook with plain arguments is kept, in one table, with an answer."""
    logs.expect(REFUSED)
    async with rig(tmp_path, run=False) as found:
        for hook in HOOKS:
            await found.admit(found.frame(hook, "ns", "a", "b", "c"))
        rows = found.rows("SELECT answer FROM events")
        assert len(rows) == len(HOOKS)
        assert all(answer in (0, 1) for (answer,) in rows)
