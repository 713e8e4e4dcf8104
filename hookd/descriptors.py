"""How many files this process may have open: as many as it is allowed, and never all of them for shims.

Started by hand it may have 1024, the default of Linux, which as many silent connections use up; then
nothing else can be opened, and much of what is looked at says nothing.
"""

from __future__ import annotations

import contextlib
import resource

WANTED = 1 << 17
"""Twice the most connections that can be configured. Not more: some programs that we start close every
number up to the limit."""

KEPT = 256
"""For all but shims: the journal, snapshots, transfers, what is looked at in /proc."""


def raise_limit() -> None:
    """The soft limit becomes the hard one, up to WANTED; what is higher stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # then it is as it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def for_shims(wanted: int) -> int:
    """How many of `wanted` connections there may be at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - KEPT if soft > 2 * KEPT else soft // 2))
