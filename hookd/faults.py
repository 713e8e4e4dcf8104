"""Named steps between frame read and job settled, where a test may end the process.

`point` does nothing. The fault tests start hookd through a launcher of their own that replaces
`hit` before anything runs; no environment variable or option of the product reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

STEPS: tuple[str, ...] = (
    "frame-read",
    "snapshot-copied",
    "snapshot-synced",
    "commit-begin",
    "commit-done",
    "answer-sent",
    "spool-read",
    "spool-committed",
    "job-started",
    "job-frozen",
    "put-begin",
    "put-done",
    "verified",
    "settled",
    "staged-removed",
    "retrieve-staged",
    "retrieve-verified",
    "retrieve-linked",
    "manifest-begin",
    "manifest-put",
)
"""The steps of a life without a loss, in the order of the pipeline."""

RESTORE_STEPS: tuple[str, ...] = (
    "restore-got",
    "restore-fetched",
    "restore-known",
    "restore-placing",
    "restore-placed",
)
"""Those of a restore. `point` is called with these names and no others."""


def _nothing(name: str) -> None:
    """The product's own: no fault."""


hit: Callable[[str], None] = _nothing


def point(name: str) -> None:
    """The process has come to the step `name`."""
    hit(name)
