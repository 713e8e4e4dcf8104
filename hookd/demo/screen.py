"""How the demo looks: steps with a tick as they happen, tables at the end.

With rich on a terminal, where the step under way has a spinner; elsewhere the same as plain lines
in the order in which things happen, without colours and never cut.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from hookd.admin.screen import is_plain
from hookd.admin.words import count, number, one_line, size, table
from hookd.demo.report import Namespace, Report

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 110

FILES_HEAD = ("Namespace", "Announced", "Stored", "Bytes", "Verified")
EVENTS_HEAD = ("Events", "Total", "Over the socket", "Over the spool", "Came twice", "Took")
MISHAPS_HEAD = ("What went wrong on purpose", "What became of it")


class Doing:
    """One step under way; `note` is what there is to say of it when it is done."""

    def __init__(self) -> None:
        self.note = ""


class Screen:
    """Prints to stdout."""

    def __init__(self, *, color: bool = True) -> None:
        """`color` False: plain, whatever stdout is."""
        self._console = None if not color or is_plain() else _console()

    def line(self, text: str = "", style: str = "") -> None:
        """One line."""
        if self._console is None:
            print(one_line(text), flush=True)
        else:
            self._console.print(text, style=style or None)

    def act(self, title: str) -> None:
        """The head of what follows."""
        self.line()
        self.line(title, "bold cyan")

    @contextlib.contextmanager
    def step(self, doing: str, report: Report) -> Iterator[Doing]:
        """Show what is done while it is done, and then whether it came out as claimed."""
        done, before, began = Doing(), len(report.broken), time.monotonic()
        try:
            with self._spinning(doing):
                yield done
        except Exception:
            self._done(doing, done.note, False, time.monotonic() - began)
            raise
        good = len(report.broken) == before
        self._done(doing, done.note, good, time.monotonic() - began)

    def files(self, report: Report) -> None:
        """What had to be stored, and is."""
        spaces = report.namespaces
        rows = [_files_row(space) for space in spaces]
        rows.append(
            _files_row(
                Namespace(
                    name="all",
                    announced=sum(space.announced for space in spaces),
                    stored=sum(space.stored for space in spaces),
                    size_bytes=sum(space.size_bytes for space in spaces),
                    verified=sum(space.verified for space in spaces),
                )
            )
        )
        self._table(report.title, FILES_HEAD, rows, right=frozenset({1, 2, 3, 4}), total=True)

    def events(self, reports: Iterable[Report]) -> None:
        """How the events came in."""
        rows = []
        for report in reports:
            if (e := report.events) is not None:
                numbers = (e.total, e.socket, e.spool, e.duplicates)
                took = f"{report.seconds:.1f} s"
                rows.append((report.title, *map(number, numbers), took))
        if rows:
            self._table("", EVENTS_HEAD, rows, right=frozenset({1, 2, 3, 4, 5}))

    def mishaps(self, reports: Iterable[Report]) -> None:
        """What was broken on purpose."""
        rows = [mishap for report in reports for mishap in report.mishaps]
        if rows:
            self._table("", MISHAPS_HEAD, rows)

    def verdict(self, reports: Sequence[Report], seconds: float) -> None:
        """The last lines."""
        self.line()
        broken = [(report.title, text) for report in reports for text in report.broken]
        claims = sum(len(report.claims) for report in reports)
        if not broken:
            self.line(f"All {count(claims, 'check')} hold; {seconds:.1f} s.", "bold green")
            return
        self.line(
            f"{count(len(broken), 'check')} of {number(claims)} failed; {seconds:.1f} s:",
            "bold red",
        )
        for title, text in broken:
            self.line(f"  {title}: {text}", "red")

    # -- inside ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _spinning(self, doing: str) -> Iterator[None]:
        if self._console is None:
            yield
        else:
            with self._console.status(doing, spinner="dots"):
                yield

    def _done(self, doing: str, note: str, good: bool, seconds: float) -> None:
        took = f"{seconds:.1f} s"
        if self._console is None:
            text = f"{doing}: {note}" if note else doing
            self.line(f"  {'ok' if good else 'FAILED':<6}  {text} ({took})")
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=3, justify="right")
        grid.add_column(ratio=5)
        grid.add_column(ratio=6)
        grid.add_column(width=6, justify="right", no_wrap=True)
        mark = Text("✓", "bold green") if good else Text("✗", "bold red")
        grid.add_row(mark, Text(doing), Text(note, "bright_black"), Text(took, "bright_black"))
        self._console.print(grid)

    def _table(
        self,
        title: str,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: frozenset[int] = frozenset(),
        total: bool = False,
    ) -> None:
        if self._console is None:
            self.line()
            if title:
                self.line(title)
            for line in table(head, rows, right):
                self.line(f"  {line}")
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        found = Table(
            title=title or None,
            title_style="bold",
            title_justify="left",
            box=box.ROUNDED,
            border_style="bright_black",
            header_style="bold",
        )
        for position, name in enumerate(head):
            found.add_column(name, justify="right" if position in right else "left")
        for place, row in enumerate(rows):
            if total and place == len(rows) - 1:
                found.add_section()
            found.add_row(*(Text(cell) for cell in row))
        self._console.print()
        self._console.print(found)


def stored(seconds: float, left: int) -> str:
    """What `Stage.until_stored` found."""
    if not left:
        return f"all stored after {seconds:.1f} s"
    return f"stored after {seconds:.1f} s; {count(left, 'index file')} wait for a full data file"


def _files_row(space: Namespace) -> tuple[str, ...]:
    verified = f"{space.verified} of {space.stored}"
    counts = (number(space.announced), number(space.stored))
    return (one_line(space.name), *counts, size(space.size_bytes), verified)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, WIDEST)
    return console
