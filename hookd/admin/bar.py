"""A progress bar on stderr, where that is a terminal: stdout is the report alone.

`with Bar() as bar: bar.show("restoring ns", 3, 40, "3 of 40 files")`. Gone when it ends, however it ends.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from hookd.admin.words import one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NARROW = 100
"""Columns of a terminal below which the bar gets what the words leave over."""


class Bar:
    """One line that moves."""

    def __init__(self) -> None:
        dumb = os.environ.get("TERM", "dumb") == "dumb" or bool(os.environ.get("NO_COLOR"))
        self._wanted = sys.stderr.isatty() and not dumb
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            console = Console(stderr=True)
            width = None if console.width < NARROW else 40
            whole = Column(no_wrap=True)
            self._bars = Progress(
                TextColumn("{task.description}", markup=False, table_column=whole),
                BarColumn(bar_width=width, table_column=Column(min_width=6, ratio=1)),
                TextColumn("{task.fields[note]}", markup=False, table_column=whole),
                console=console,
                expand=width is None,
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task("", total=None, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take it away. Idempotent."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def show(self, doing: str, done: int, total: int | None, note: str) -> None:
        """The newest of it; without a total it only moves."""
        if self._bars is None or self._task is None:
            return
        self._bars.update(
            self._task,
            description=one_line(doing),
            total=total,
            completed=done,
            note=one_line(note),
        )
