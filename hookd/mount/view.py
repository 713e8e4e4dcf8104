"""Stage mount, what can be seen of it: `State` as plain values, and its health.

The health follows `hookd.admin.health`: degraded means that every promise is kept and something
stays as it is until it ends or somebody acts; failing means that the mount cannot be used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from hookd import __version__
from hookd.admin.words import count, duration, one_line, size
from hookd.log import scrub
from hookd.mount.drain import left_of
from hookd.mount.state import Phase, State

View = dict[str, Any]

REMOTE_BAD_S = 60.0
"""A remote that is away for less is not worth waking anybody; a file that fails twice is."""

FAILING_TRIES = 2
OLD_S = 900.0
MOST_NAMED = 20

KIND = "mount"
"""The field `kind` of the view: `hookd status` tells by it whom it asked."""


def view(state: State) -> View:
    """Everything, as of the last look."""
    now, finding = time.time(), state.finding
    queue = finding.queue
    oldest = min((each.since for each in finding.dirty), default=None)
    failing = queue.failing
    found: View = {
        "kind": KIND,
        "version": __version__,
        "pid": os.getpid(),
        "started_at": state.started_at,
        "uptime_s": now - state.started_at,
        "phase": state.phase.value,
        "ready": state.phase is Phase.RUNNING,
        "ready_after_s": state.ready_after_s,
        "waiting_for": state.waiting_for,
        "mount": {
            "target": state.target,
            "mountpoint": state.mountpoint,
            "read_only": state.read_only,
            "error": scrub(finding.mount) or None,
            "dead": finding.dead,
            "remounts": state.remounts,
            "last_remount": state.last_remount or None,
            "looked_s_ago": now - finding.at,
        },
        "remote": {
            "error": scrub(finding.remote) or None,
            "refused": finding.refused,
            "bad_s": None if state.remote_bad_since is None else now - state.remote_bad_since,
        },
        "uploads": {
            "files": len(queue.uploads),
            "bytes": queue.size_bytes,
            "in_progress": queue.in_progress,
            "failing": len(failing),
            "most_tries": max((upload.tries for upload in failing), default=0),
            "why": next((scrub(upload.why) for upload in failing if upload.why), None),
        },
        "dirty": {
            "files": len(finding.dirty),
            "bytes": sum(each.size_bytes for each in finding.dirty),
            "oldest_age_s": None if oldest is None else max(0.0, now - oldest),
            "names": [each.line() for each in left_of(finding.dirty[:MOST_NAMED], queue)],
            "resumed_files": state.resumed_files,
        },
        "cache": {
            "path": state.cache,
            "files": queue.cache_files,
            "bytes": queue.cache_bytes,
            "free_bytes": finding.free_bytes,
            "out_of_space": queue.out_of_space or _full(state),
        },
        "aside": [scrub(line) for line in finding.aside],
        "notices": [scrub(notice) for notice in state.notices],
    }
    lines = [one_line(line) for line in _reasons(found)]
    failed = state.phase is Phase.REMOUNTING or found["mount"]["error"] or finding.refused
    status = "failing" if failed else ("degraded" if lines else "ok")
    found["health"] = {"status": status, "reasons": lines}
    return found


def _full(state: State) -> bool:
    free = state.finding.free_bytes
    return free is not None and free < min(state.min_free_bytes, 16 << 20)


def _reasons(found: View) -> Iterator[str]:
    mount, remote, uploads = found["mount"], found["remote"], found["uploads"]
    if found["phase"] == Phase.REMOUNTING.value:
        yield f"the mounter is being replaced: {mount['last_remount']}"
    elif mount["error"]:
        yield mount["error"]
    if remote["refused"]:
        yield f"{remote['error']}; files wait in the cache"
    elif remote["error"] and remote["bad_s"] > REMOTE_BAD_S:
        yield f"the remote has been away for {duration(remote['bad_s'])}: {remote['error']}"
    if uploads["most_tries"] >= FAILING_TRIES:
        why = f": {uploads['why']}" if uploads["why"] else ""
        files = count(uploads["failing"], "file")
        yield f"uploads fail, {files}, up to {uploads['most_tries']} tries{why}"
    yield from found["aside"][:MOST_NAMED]
    if found["cache"]["out_of_space"]:
        free = found["cache"]["free_bytes"]
        room = "" if free is None else f" ({size(free)} left)"
        yield f"the cache's disk is full{room}: writes get errors until uploads make room"
