"""What came of a restore by hand, namespace by namespace. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hookd.admin.words import count, listed, size
from hookd.files import FileKey
from hookd.restore.table import Decision, Here, There

if TYPE_CHECKING:
    from hookd.recovery_rest import Brought
    from hookd.restore.finding import Finding


NOTHING: Mapping[str, str] = {}

SHOWN = 5
"""Names in one line; the others are counted."""


def without(holes: Collection[FileKey], spared: Collection[FileKey] = ()) -> str:
    """What a restore did not bring: nobody had it when it was stored, or somebody does without."""
    told = ""
    if holes:
        names = listed([key.name for key in holes], SHOWN)
        told = f"; some values in {names} were lost before it was stored"
    if spared:
        told += f"; without {listed([key.name for key in spared], SHOWN)}, as was chosen"
    return told


@dataclass(slots=True)
class Result:
    """By namespace."""

    restored: dict[str, str] = field(default_factory=dict)
    """What was brought, in words."""
    complete: list[str] = field(default_factory=list)
    """Those of which nothing was missing."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why not."""
    left: dict[str, str] = field(default_factory=dict)
    """Those that nobody asked for and that are not complete: why."""

    @property
    def whole(self) -> list[str]:
        """Those that are here now, but perhaps for old data files."""
        return [*self.restored, *self.complete]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "restored": self.restored,
            "complete": self.complete,
            "refused": self.refused,
            "left": self.left,
        }


def told(
    findings: Mapping[str, Finding],
    only: Collection[str] | None,
    unread: Mapping[str, str] = NOTHING,
) -> Result:
    """Of a survey; of `only` these namespaces somebody asked. `unread`: see `Survey`."""
    result = Result()
    for name, why in unread.items():
        (result.refused if only is None or name in only else result.left)[name] = why
    for name, found in findings.items():
        if only is not None and name not in only:
            if found.reason:
                result.left[name] = found.reason
        elif found.decision is Decision.RESTORE:
            result.restored[name] = f"{found.brought}; {found.here.value} before"
        elif found.reason:
            result.refused[name] = found.reason
        elif only is not None and (found.here, found.there) == (Here.EMPTY, There.EMPTY):
            result.refused[name] = "the store has no files of it"
        else:
            result.complete.append(name)
    for name in sorted({*(only or ())} - findings.keys() - unread.keys()):
        result.refused[name] = "zdb.skip_namespaces names it: nothing of it is stored"
    return result


def with_rest(result: Result, brought: Mapping[str, Brought]) -> None:
    """And the data files that came after it (`--full`)."""
    for name, rest in brought.items():
        if name in result.complete:
            result.complete.remove(name)
        if rest.why:
            result.refused[name] = rest.why
        if rest.files or rest.lost:
            came = f"{count(rest.files, 'data file')}, {size(rest.bytes)}{without(rest.lost)}"
            before = result.restored.get(name)
            result.restored[name] = f"{before}; then {came}" if before else came
