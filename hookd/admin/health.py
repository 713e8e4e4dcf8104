"""Whether an administrator has to act: a view into `ok`, `degraded` or `failing`, with reasons.

- `ok`: every promise is kept, files may be waiting;
- `degraded`: every promise is kept, but something stays as it is until it ends or somebody acts;
- `failing`: a promise cannot be kept (the journal is damaged, an audit found files that are not what they
  should be, a namespace has a name that cannot be kept).

Pure; a reason is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hookd.admin.safety import overdue
from hookd.admin.words import (
    count,
    duration,
    elsewhere_line,
    listed,
    nameless_line,
    one_line,
    size,
    verb,
)

STORE_DOWN_S = 60.0
"""A store that is away for less is not worth waking anybody."""

MOST_ALARMS = 5
"""Named one by one."""


def health(view: dict[str, Any]) -> tuple[str, list[str]]:
    """(status, reasons)."""
    lines = [text for _, text in reasons(view)]
    broken = view["journal"]["state"] == "broken" or view["fence"]["fenced"]
    if broken or view["audit"]["alarm_files"] or view["nameless"]:
        return "failing", lines
    return ("degraded" if lines else "ok"), lines


def reasons(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what it is about, one line) for all that makes it less than ok, the worst first."""
    for about, say in _ABOUT.items():
        for line in say(view):
            yield about, one_line(line)


def _journal(view: dict[str, Any]) -> Iterator[str]:
    journal = view["journal"]
    if journal["state"] == "broken":
        yield f"the journal is damaged: {journal['last_error']}"
    elif journal["state"] == "error":
        yield f"the journal cannot be written, shims keep their events: {journal['last_error']}"
    if copies := journal["damaged_copies"]:
        yield f"the journal was damaged and rebuilt; look at {listed(copies, 1)}, then move it away"


def _alarms(view: dict[str, Any]) -> Iterator[str]:
    audit = view["audit"]
    for alarm in audit["alarms"][:MOST_ALARMS]:
        yield f"{alarm['file']}: {alarm['detail']}"
    if (more := audit["alarm_files"] - MOST_ALARMS) > 0:
        yield f"and {count(more, 'more alarm')} of the audit: `hookd verify` names them"


def _blind(view: dict[str, Any]) -> Iterator[str]:
    blind = view["store"]["blind"]
    if blind is not None and blind["advice"]:
        yield blind["advice"]


def _fence(view: dict[str, Any]) -> Iterator[str]:
    if fenced := view["fence"]["fenced"]:
        yield f"nothing is stored any more: {fenced}"


def _restore(view: dict[str, Any]) -> Iterator[str]:
    if waiting := view["restore"]["waiting"]:
        yield f"zdb waits in namespaces-init: {waiting}"


def _nameless(view: dict[str, Any]) -> Iterator[str]:
    for name in view["nameless"]:
        yield nameless_line(name)


def _held(view: dict[str, Any]) -> Iterator[str]:
    for name, reason in view["held"].items():
        yield f"namespace {name} takes no stores: {reason}"


def _quarantined(view: dict[str, Any]) -> Iterator[str]:
    if files := view["queue"]["states"]["quarantined"]["files"]:
        yield (
            f"{count(files, 'file')} {verb(files, 'is', 'are')} quarantined: decide with"
            " `hookd retry` or `hookd skip`"
        )


def _store(view: dict[str, Any]) -> Iterator[str]:
    store = view["store"]
    if store["state"] == "down" and store["down_s"] > STORE_DOWN_S:
        yield f"the store has been down for {duration(store['down_s'])}: {store['last_error']}"


def _room(view: dict[str, Any]) -> Iterator[str]:
    room = view["room"]
    if room["shut"]:
        text = f"only {size(room['free_bytes'])} of the disk are free"
        if room["problem"]:
            yield f"{text}, and zdb could not be told to take no writes: {room['problem']}"
        else:
            keep = size(room["keep_free_bytes"])
            yield f"{text}: zdb takes no writes until more than {keep} are; make room"


def _staging(view: dict[str, Any]) -> Iterator[str]:
    if refused := view["staging"]["refused"]:
        yield f"no room for snapshots: {refused}"


def _spool(view: dict[str, Any]) -> Iterator[str]:
    spool = view["spool"]
    if problem := spool["problem"]:
        yield f"the spool cannot be read, shims can keep nothing: {problem}"
    for folder, events in spool["elsewhere"].items():
        yield elsewhere_line(folder, events, spool["folder"])
    if bad := spool["bad"]:
        yield f"{count(bad, 'spool file')} could not be read; look into bad/ in the spool folder"


def _paused(view: dict[str, Any]) -> Iterator[str]:
    if view["paused"]:
        yield "storing is paused; `hookd resume` goes on"


_ABOUT: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "journal": _journal,
    "alarms": _alarms,
    "blind": _blind,
    "fence": _fence,
    "restore": _restore,
    "nameless": _nameless,
    "held": _held,
    "quarantined": _quarantined,
    "store": _store,
    "recovery": overdue,
    "room": _room,
    "staging": _staging,
    "spool": _spool,
    "paused": _paused,
}
