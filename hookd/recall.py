"""Which events were done before: their shims come again, and spool files are read twice.

In: event ids; out: their rows and answers. The newest events are kept in memory, by their rows and not by
a clock; older ones are in the journal alone, and are looked for there for events of the spool only: a
shim comes again within seconds, but a file may have lain there for long. The table is read whole for that
(no index: docs/explanation/decisions.md), 74 ms for 800,000 rows, so a sweep has all its ids looked for
at once (`expect`).

The invariant: an event of the spool that the journal has is never taken for a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

from hookd.journal import Journal

REMEMBER_EVENTS = 200_000
"""Event ids kept in memory at most."""

AT_ONCE = 5_000
"""Ids that one reading of the table looks for; SQLite takes 32,766 at most."""

Known = tuple[int, int | None]
"""The row of an event, and its answer if it has one."""


class Recall:
    """The events that were done."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._newest: dict[bytes, Known] = {}
        self._forgotten = 0
        """Events of the rows up to here are in the journal alone, if anywhere."""
        self._expected: dict[bytes, Known | None] = {}
        """What was looked for already, and found or not."""

    def __len__(self) -> int:
        return len(self._newest)

    def load(self, events: Sequence[tuple[bytes, int, int | None]]) -> None:
        """The newest events of the journal, oldest first (at start)."""
        for event_id, seq, answer in events:
            self._newest[event_id] = (seq, answer)
        self._forgotten = events[0][1] - 1 if events else 0

    def get(self, event_id: bytes) -> Known | None:
        """One of the newest."""
        return self._newest.get(event_id)

    def note(self, event_id: bytes, seq: int, answer: int | None) -> None:
        """It is committed."""
        self._newest[event_id] = (seq, answer)
        if len(self._newest) > REMEMBER_EVENTS:
            oldest = next(iter(self._newest))
            known = self._newest.pop(oldest)
            self._forgotten = max(self._forgotten, known[0])
            if oldest in self._expected:
                self._expected[oldest] = known

    async def expect(self, event_ids: Sequence[bytes]) -> None:
        """These come next from the spool. Raises JournalError; then each is looked for by itself."""
        self._expected = {}
        if not self._forgotten:
            return
        for start in range(0, len(event_ids), AT_ONCE):
            wanted = [each for each in event_ids[start : start + AT_ONCE] if not self.get(each)]
            if not wanted:
                continue
            # before it is asked: what is committed meanwhile, and forgotten again, is put there by `note`
            self._expected.update(dict.fromkeys(wanted))
            try:
                found = await self._journal.find_event_ids(wanted, up_to=self._forgotten)
            except BaseException:
                self._expected = {}
                raise
            self._expected.update(found)

    async def find(self, event_id: bytes) -> Known | None:
        """One that came from the spool, and is none of the newest. Raises JournalError."""
        if event_id in self._expected:
            return self._expected[event_id]
        if not self._forgotten:
            return None
        found = await self._journal.find_event_ids([event_id], up_to=self._forgotten)
        return found.get(event_id)
