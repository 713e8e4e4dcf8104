"""How far a restore is, for the log, for status and for a bar. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hookd.admin.words import count, duration, number, size
from hookd.files import FileKey

ETA_AFTER_S = 0.5
"""Before that a guess is worth nothing."""


@dataclass(slots=True)
class Progress:
    """Of one namespace. Sizes are in bytes."""

    namespace: str = ""
    files_total: int = 0
    files_done: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    """Of the files whose size the store tells."""
    doing: str = "asking the store what it has"
    """What goes on while no file is fetched; empty while one is."""
    started: float = field(default_factory=time.monotonic)
    arriving: Mapping[FileKey, int] = field(default_factory=dict)
    """Bytes that are here of files on their way, where the store lets them be seen."""

    @property
    def bytes_here(self) -> int:
        """With those of files on their way."""
        return self.bytes_done + sum(self.arriving.values())

    @property
    def share(self) -> tuple[int, int]:
        """(done, of): bytes where all sizes are known, else files."""
        if self.bytes_total > 0 and self.bytes_here <= self.bytes_total:
            return self.bytes_here, self.bytes_total
        return self.files_done, self.files_total

    @property
    def rate_bytes_s(self) -> float:
        """Since the start."""
        return self.bytes_here / max(0.001, time.monotonic() - self.started)

    @property
    def eta_s(self) -> float | None:
        """Seconds to go: by bytes where all sizes are known, else by files."""
        elapsed = time.monotonic() - self.started
        if elapsed < ETA_AFTER_S or self.files_done >= self.files_total:
            return None
        done, total = self.files_done, self.files_total
        if self.bytes_total > self.bytes_here > 0:
            done, total = self.bytes_here, self.bytes_total
        return elapsed * (total - done) / done if done else None

    def note(self) -> str:
        """`12/40 files  1.2/3 GiB  40 MiB/s  3 min to go`: short, for a bar of 80 columns."""
        if not self.files_total:
            return self.doing
        text = f"{number(self.files_done)}/{count(self.files_total, 'file')}"
        text += f"  {_pair(self.bytes_here, self.bytes_total)}"
        if self.files_done >= self.files_total:
            return f"{text}  {self.doing}" if self.doing else text
        text += f"  {_round(self.rate_bytes_s)}/s"
        if (eta_s := self.eta_s) is not None:
            text += f"  {duration(max(1.0, eta_s))} to go"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For a bar elsewhere."""
        return {
            "namespace": self.namespace,
            "done": self.share[0],
            "of": self.share[1],
            "note": self.note(),
        }

    def line(self) -> str:
        """For the log and for status."""
        return f"{self.namespace}: {self.note().replace('  ', ', ')}"


def _round(value: float) -> str:
    """As `size`, without a fraction where that says nothing."""
    text, unit = size(value).split()
    return f"{float(text):.0f} {unit}" if float(text) >= 10 else f"{text} {unit}"


def _pair(done: int, total: int) -> str:
    """`1.2/3 GiB`, or `900 MiB/3 GiB`; one number where no more is known."""
    if total <= done:
        return _round(done)
    first, last = _round(done).split(), _round(total).split()
    if first[1] == last[1]:
        return f"{first[0]}/{last[0]} {last[1]}"
    return f"{' '.join(first)}/{' '.join(last)}"
