"""What an audit can find, and the alarms that are kept until a later audit finds them mended. Pure.

A finding is an alarm where nothing that hookd may do by itself mends it: what can be stored again is
queued and only told.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from hookd.errors import PathRefused
from hookd.files import FileKey

MAX_ALARMS = 1000
"""Kept and named; a store that lost everything would else fill the journal with them."""


class Problem(enum.StrEnum):
    """What is wrong with a file."""

    NOT_STORED = "not-stored"
    """No hook announced it, and it is not in the store: queued."""
    ABSENT = "absent"
    """It was stored, the store does not have it any more, and it is here: queued again."""
    LOST = "lost"
    """Neither here nor in the store."""
    DIFFERS = "differs"
    """Sealed and stored, but other content is here."""
    STORE_DIFFERS = "store-differs"
    """The store says that it has other content than was proven."""
    FOREIGN = "foreign"
    """The store has a file of another frontend, beyond the newest ones here."""
    ROTTEN = "rotten"
    """What a retrieve gave is not what was stored, or it gave nothing of what the store says it has."""
    EMPTY = "empty-index"
    """An index file without a whole header: zdb does not start with it."""
    DAMAGED = "damaged-index"
    """An index file that does not begin as one, or has what is no entry."""
    GAP = "gap"
    """An index file or the active data file is absent: zdb would load the namespace wrongly."""
    TRUNCATED = "truncated"
    """Shorter here than what was stored, or than what index entries point into."""
    SHORT = "short-in-store"
    """Not here, and shorter in the store than what index entries point into."""
    QUARANTINED = "quarantined"
    """It is not stored, and will not be before somebody decides."""
    HELD = "held"
    """Nothing of its namespace is stored, or looked at here, before somebody decides."""
    UNCHECKED = "unchecked"
    """It could not be read, here or in the store."""


LOCAL = frozenset(
    {Problem.DIFFERS, Problem.EMPTY, Problem.DAMAGED, Problem.GAP, Problem.TRUNCATED, Problem.SHORT}
)
"""Found without asking the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with one file."""

    key: FileKey
    problem: Problem
    detail: str
    """In words, with what was or can be done."""
    alarm: bool = True
    """Whether somebody has to act."""

    def line(self) -> str:
        """For a person."""
        return f"{self.key}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A finding that is kept."""

    finding: Finding
    since: float
    """Unix seconds."""

    @property
    def id(self) -> tuple[FileKey, Problem]:
        """One file has one alarm of a kind."""
        return self.finding.key, self.finding.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What an audit looked at to the end, so that what it did not find there is mended."""

    local: bool = False
    """Local files, compared with the ledger."""
    store: bool = False
    """What the store says that it has."""
    deep: bool = False
    """What the store gives."""
    namespace: str | None = None
    """Only this one."""
    after: str = ""
    """Deep: only files that come later."""

    def has(self, alarm: Alarm) -> bool:
        """Whether the alarm would have been found again."""
        key, problem = alarm.id
        if self.namespace not in (None, key.namespace):
            return False
        if problem is Problem.ROTTEN:
            return self.deep and str(key) > self.after
        return self.local if problem in LOCAL else self.store


def merge(
    alarms: Iterable[Alarm],
    findings: Iterable[Finding],
    covered: Covered,
    now: float,
    *,
    stored_since: Collection[FileKey] = (),
) -> tuple[list[Alarm], list[Alarm], list[Alarm]]:
    """(all from now on, new ones, mended ones).

    `stored_since`: files of alarms that were stored anew since the alarm.
    """
    known = {alarm.id: alarm for alarm in alarms}
    found = {(each.key, each.problem): each for each in findings if each.alarm}
    new = [Alarm(finding=each, since=now) for id_, each in found.items() if id_ not in known]
    kept: list[Alarm] = []
    mended: list[Alarm] = []
    for id_, alarm in known.items():
        if id_ in found:
            kept.append(replace(alarm, finding=found[id_]))
        elif covered.has(alarm) or (alarm.id[1] is Problem.ROTTEN and id_[0] in stored_since):
            mended.append(alarm)
        else:
            kept.append(alarm)
    every = kept + new
    every.sort(key=lambda alarm: (alarm.since, str(alarm.finding.key)))
    return every[:MAX_ALARMS], new, mended


def to_meta(alarms: Iterable[Alarm]) -> list[dict[str, object]] | None:
    """For the journal; None for none."""
    rows: list[dict[str, object]] = [
        {
            "file": str(alarm.finding.key),
            "problem": alarm.finding.problem.value,
            "detail": alarm.finding.detail,
            "since": alarm.since,
        }
        for alarm in alarms
    ]
    return rows or None


def from_meta(meta: Mapping[str, object]) -> list[Alarm]:
    """What the journal has; rows that this version cannot read are left out."""
    rows = meta.get("alarms")
    alarms: list[Alarm] = []
    for row in rows if isinstance(rows, list) else ():
        try:
            finding = Finding(
                key=FileKey.parse(row["file"]),
                problem=Problem(row["problem"]),
                detail=str(row["detail"]),
            )
            alarms.append(Alarm(finding=finding, since=float(row["since"])))
        except (KeyError, TypeError, ValueError, AttributeError, PathRefused):
            continue
    return alarms
