"""Stage view, the part that says what the loss of this machine would cost: recovery point, checkpoints.

Pure; keys as in docs/reference/stats-socket.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hookd.admin.words import count, duration, one_line, size
from hookd.log import scrub

if TYPE_CHECKING:
    from hookd.parts import Parts
    from hookd.recovery_point import RecoveryPoint

OVERDUE_TIMES = 3
"""The recovery point may be so many intervals old before an administrator has to look."""


def recovery_view(
    point: RecoveryPoint | None, now: float, *, unscanned: bool
) -> dict[str, Any] | None:
    """The recovery point as it was found a moment ago; None where nobody has looked yet. `unscanned`: it
    does not know what a zdb that was killed has changed (`Checkpoints.unscanned`).
    """
    if point is None:
        return None
    return {
        "until": point.until,
        "age_s": _age(point.until, point.files, now),
        "files": point.files,
        "bytes": point.bytes,
        "scanned": not unscanned,
        "namespaces": {
            name: {
                "until": space.until,
                "age_s": _age(space.until, space.files, now),
                "files": space.files,
                "bytes": space.bytes,
            }
            for name, space in point.spaces.items()
        },
    }


def _age(until: float | None, files: int, now: float) -> float | None:
    """Seconds whose writes would be lost: 0 where nothing is only here, None where nobody knows."""
    if not files:
        return 0.0
    return None if until is None else max(0.0, now - until)


def checkpoint_view(parts: Parts) -> dict[str, Any]:
    """What is known of checkpoints since the start of this process."""
    made, timer = parts.checkpoints, parts.checkpoint_timer
    last = None if made.last is None else made.last.as_dict()
    if last is not None:
        last["problems"] = [scrub(text) for text in last["problems"]]
    return {
        "interval_s": None if timer is None else timer.interval_s,
        "next_in_s": None if timer is None else timer.next_in_s,
        "put_off": None if timer is None or timer.skipped is None else scrub(timer.skipped),
        "doing": None if made.doing is None else scrub(made.doing),
        "taken": made.taken,
        "failed": made.failed,
        "safe_until": None if made.last_safe is None else made.last_safe.until,
        "last": last,
    }


def overdue(view: dict[str, Any]) -> Iterator[str]:
    """Why the configured bound does not hold now."""
    point, made = view["recovery"], view["checkpoint"]
    if point is None or made["interval_s"] is None or not point["age_s"]:
        return
    if point["age_s"] <= OVERDUE_TIMES * made["interval_s"] + 60:
        return
    why = made["put_off"] or "; ".join((made["last"] or {}).get("problems", ())) or made["doing"]
    text = f"what was written in the last {duration(point['age_s'])} is only here"
    yield f"{text}, though checkpoint.interval_s is {made['interval_s']:g}: {why or 'it is slow'}"


def sentence(view: dict[str, Any]) -> tuple[str, str] | None:
    """(one line for the status screen, its tone), None where nobody has looked yet."""
    point, made = view["recovery"], view["checkpoint"]
    if point is None:
        return None
    if not point["files"] and not point["scanned"]:
        return "not known yet: looking for files that no hook announced", ""
    if not point["files"]:
        return "now: with this machine nothing would be lost", "good"
    amount = f"{size(point['bytes'])} in {count(point['files'], 'file')}"
    if point["age_s"] is None:
        return f"not known; only here: {amount}", "bad"
    text = f"{duration(point['age_s'])} ago ({_clock(point['until'])}); only here: {amount}"
    if made["put_off"]:
        return f"{text}; checkpoint put off: {one_line(made['put_off'])}", "warn"
    return text, ""


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
