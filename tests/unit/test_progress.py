"""How far a restore is: one line that fits 80 columns, and says what it does while no file comes."""

from __future__ import annotations

import pytest

from hookd.files import data_key
from hookd.restore.progress import Progress

MIB = 1 << 20
NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still."""
    monkeypatch.setattr("hookd.restore.progress.time.monotonic", lambda: NOW)


def far(files: int, of: int, done: float, total: float, *, elapsed_s: float = 10) -> Progress:
    """So far, after ten seconds."""
    return Progress("zdbfs-data", of, files, int(done * MIB), int(total * MIB), "", NOW - elapsed_s)


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress("ns"), "asking the store what it has"),
        (far(120, 480, 100, 400), "120/480 files  100/400 MiB  10 MiB/s  30 s to go"),
        (far(1, 2, 900, 3072), "1/2 files  900 MiB/3 GiB  90 MiB/s  24 s to go"),
        (far(1, 4, 5, 0), "1/4 files  5 MiB  512 KiB/s  30 s to go"),  # sizes are not known
        (far(0, 4, 0, 8), "0/4 files  0 B/8 MiB  0 B/s"),
        (far(4, 4, 8, 8), "4/4 files  8 MiB"),
        (far(1, 2, 1, 2, elapsed_s=0.1), "1/2 files  1/2 MiB  10 MiB/s"),  # too early to guess
    ],
)
def test_note(progress: Progress, said: str) -> None:
    assert progress.note() == said
    assert progress.line() == f"{progress.namespace}: {said.replace('  ', ', ')}"


def test_within_a_file() -> None:
    """What is here of files on their way counts, for the bar too."""
    progress = far(0, 1, 0, 100)
    progress.arriving = {data_key("ns", 0): 25 * MIB}
    assert progress.note() == "0/1 file  25/100 MiB  2.5 MiB/s  30 s to go"
    assert progress.share == (25 * MIB, 100 * MIB)
    assert far(1, 4, 5, 0).share == (1, 4)


def test_what_goes_on_between_files() -> None:
    progress = far(4, 4, 8, 8)
    progress.doing = "reading the indexes"
    assert progress.note() == "4/4 files  8 MiB  reading the indexes"


def test_fits_a_terminal() -> None:
    """Beside a name of 10 characters and the least bar, the longest that is likely."""
    assert len(far(99_999, 100_000, 99_999, 102_400, elapsed_s=86_399).note()) <= 80 - 10 - 6 - 2
