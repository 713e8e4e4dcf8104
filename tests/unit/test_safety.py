"""What status says of the recovery point and of checkpoints, in words that fit what is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hookd.admin.safety import overdue, sentence
from hookd.admin.view import view
from hookd.checkpoint_run import Outcome
from hookd.errors import Exit
from hookd.log import register_secret
from hookd.parts import Parts
from hookd.recovery_point import RecoveryPoint, SpacePoint
from tests.fakes.parts import fake_parts

BAD = Outcome(
    code=Exit.UNAVAILABLE, until=1.0, elapsed_s=1.0, problems=("zdb does not answer at tcp://x:1",)
)


def point(age_s: float | None, files: int = 2, size: int = 3 << 20) -> RecoveryPoint:
    now = time.time()
    until = None if age_s is None else now - age_s
    space = SpacePoint(until=until, files=files, bytes=size, active_dirty=bool(files))
    return RecoveryPoint(looked_at=now, spaces={"ns": space})


def timed(parts: Parts, interval_s: float, put_off: str | None = None) -> Parts:
    timer: Any = SimpleNamespace(interval_s=interval_s, next_in_s=1.0, skipped=put_off)
    parts.checkpoint_timer = timer
    return parts


def test_nobody_has_looked_yet() -> None:
    found = view(fake_parts())
    assert found["recovery"] is None and sentence(found) is None
    assert not list(overdue(found))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda: point(0, 0, 0), ["nothing would be lost"]),
        (lambda: point(252.5), ["4 min", "ago", "UTC", "only here: 3 MiB in 2 files"]),
        (lambda: point(None), ["not known", "3 MiB in 2 files"]),
    ],
)
def test_the_line_of_the_screen(found: Callable[[], RecoveryPoint], words: list[str]) -> None:
    line = sentence(view(fake_parts(), point=found()))
    assert line is not None and all(word in line[0] for word in words)


def test_before_a_scan_has_looked() -> None:
    """Nothing is known to be only here, but nobody knows what a zdb that was killed has changed."""
    parts = fake_parts()
    cast("Any", parts.checkpoints).unscanned = True
    found = view(parts, point=point(0, 0, 0))
    assert not found["recovery"]["scanned"]
    line = sentence(found)
    assert line is not None and line[0].startswith("not known yet")
    told = sentence(view(parts, point=point(252.5)))
    assert told is not None and "only here: 3 MiB" in told[0]


def test_nothing_only_here_has_no_age() -> None:
    """However long ago it was looked."""
    found = view(fake_parts(), point=RecoveryPoint(looked_at=1.0))
    assert (found["recovery"]["age_s"], found["recovery"]["until"]) == (0, 1.0)


def test_why_a_checkpoint_is_put_off() -> None:
    parts = timed(fake_parts(), 60, "the store is down: no route")
    line = sentence(view(parts, point=point(100)))
    assert line is not None and "put off: the store is down: no route" in line[0]


def test_overdue_is_somebodys_business() -> None:
    """Three intervals and a minute; what is in the way is named."""
    parts = timed(fake_parts(), 60)
    assert view(parts, point=point(230))["health"]["status"] == "ok"
    parts.checkpoints.last = BAD
    found = view(parts, point=point(300))["health"]
    assert found["status"] == "degraded"
    [reason] = found["reasons"]
    assert "last 5 min is only here" in reason and "tcp://x:1" in reason
    assert view(fake_parts(), point=point(9e6))["health"]["status"] == "ok"  # nobody promised


def test_no_secret_is_shown() -> None:
    register_secret("s3cret-of-a-checkpoint")
    parts = fake_parts()
    parts.checkpoints.last = Outcome(
        code=Exit.FAILED, until=1.0, elapsed_s=1.0, problems=("s3cret-of-a-checkpoint",)
    )
    assert "s3cret" not in str(view(parts)["checkpoint"])
