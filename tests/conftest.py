"""What every test may use: the event loop's kind, and the log as a list of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

LOUD = ("warning", "error", "critical")


class Logs:
    """What was logged during a test; a loud event that it did not announce fails it."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events
        self._expected: set[str] = set()
        self._allowed: set[str] = set()

    def expect(self, *events: str) -> None:
        """These (the fixed text of the line) belong to what the test provokes."""
        self._expected.update(events)

    def allow(self, *events: str) -> None:
        """These may come, for tests whose parameters decide."""
        self._allowed.update(events)

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines with this text."""
        return [entry for entry in self._events if entry["event"] == event]

    @property
    def unexpected(self) -> list[dict[str, Any]]:
        """Loud lines that nobody announced."""
        return [
            entry
            for entry in self._events
            if entry["log_level"] in LOUD and entry["event"] not in self._expected | self._allowed
        ]

    @property
    def missing(self) -> set[str]:
        """What was announced and did not come."""
        return self._expected - {entry["event"] for entry in self._events}


@pytest.fixture
def anyio_backend() -> str:
    """hookd runs on asyncio: intake and journal use its transports and futures."""
    return "asyncio"


@pytest.fixture
def logs() -> Iterator[Logs]:
    """The log of this test, every level of it, whatever a test before set up in this process."""
    structlog.reset_defaults()
    with capture_logs() as events:
        found = Logs(events)
        yield found
    assert found.unexpected == []
    assert found.missing == set()
