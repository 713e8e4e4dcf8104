"""Stage admission, counted: events since the start of this process."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Events since the start of this process."""

    accepted: int = 0
    duplicate: int = 0
    unknown: int = 0
    refused: int = 0
    """Whole, or a file of it."""
    held: int = 0
    deferred: int = 0
    """jump-index answered 1 because nothing could be frozen."""
    by_hook: dict[str, int] = field(default_factory=dict)
    """Unknown ones together: whoever may connect could make up names without end."""
