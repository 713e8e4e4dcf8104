"""How answers look: with rich on a terminal, as plain lines everywhere else.

Plain lines are whole (never cut or wrapped) and without colour, for `grep` and for logs; rich is
only imported for a terminal. Text from outside is never taken for rich's markup: it is put into
`Text` objects.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from hookd.admin import listing
from hookd.admin.story import Row, Story, tell
from hookd.admin.words import table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

LABEL_WIDTH = 9
BAR_WIDTH = 24
WIDEST = 120

TONES = {
    "": "",
    "good": "green",
    "warn": "yellow",
    "bad": "red",
    "dim": "dim",
    "pending": "blue",
    "blocked": "magenta",
    "running": "cyan",
    "quarantined": "red",
}


def show_status(view: dict[str, Any]) -> None:
    """Print the status screen."""
    if view.get("kind") == "mount":
        from hookd.mount.story import tell as tell_mount

        story = tell_mount(view)
    else:
        story = tell(view)
    if is_plain():
        print("\n".join(plain(story)))
    else:
        _paint(_console(), story)


def show_queue(found: dict[str, Any]) -> None:
    """Print the answer of `queue --json` as a table."""
    if is_plain() or not found["rows"]:
        print(listing.queue_text(found))
    else:
        _paint_queue(_console(), found)


def is_plain() -> bool:
    """Whether there is no terminal, or none that wants colours (https://no-color.org)."""
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return dumb or bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()


def plain(story: Story) -> list[str]:
    """The status screen without a terminal."""
    lines = [story.headline, story.about, ""]
    lines += [f"{row.label:<{LABEL_WIDTH}}  {row.text}".rstrip() for row in story.rows]
    if story.attention:
        lines += ["", *(f"! {text}" for text in story.attention)]
    return lines


# -- on a terminal -----------------------------------------------------------------------------


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, WIDEST)
    return console


def _paint(console: Console, story: Story) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 1))
    head.add_row(Text("●", TONES[story.tone]), Text(story.headline, "bold"))
    head.add_row("", Text(story.about, TONES["dim"]))
    body = Table.grid(padding=(0, 2))
    body.add_column(min_width=LABEL_WIDTH, no_wrap=True, style="bold")
    body.add_column(overflow="fold")
    for row in story.rows:
        body.add_row(row.label, _row(row))
        if row.bar:
            body.add_row("", _bar(row.bar, min(BAR_WIDTH * 2, console.width - LABEL_WIDTH - 6)))
    parts: list[RenderableType] = ["", head, "", Padding(body, (0, 0, 0, 2)), ""]
    if story.attention:
        notes = Table.grid(padding=(0, 1))
        for text in story.attention:
            notes.add_row(Text("!", "bold red"), Text(text))
        parts += [Padding(notes, (0, 0, 0, 2)), ""]
    console.print(*parts, sep="\n")


def _row(row: Row) -> Text:
    from rich.text import Text

    return Text(row.text, TONES[row.tone])


def _bar(parts: tuple[tuple[str, float], ...], width: int) -> Text:
    """Shares of a line; whatever is there at all gets at least one cell."""
    from rich.text import Text

    cells = [(tone, max(1, round(share * width)) if share > 0 else 0) for tone, share in parts]
    excess = sum(amount for _, amount in cells) - width
    largest = max(range(len(cells)), key=lambda i: cells[i][1])
    bar = Text()
    for i, (tone, amount) in enumerate(cells):
        bar.append("━" * (amount - excess if i == largest else amount), TONES[tone])
    return bar


def _paint_queue(console: Console, found: dict[str, Any]) -> None:
    """Why a file waits stands below it, over the whole width: it may be long."""
    from rich.padding import Padding
    from rich.text import Text

    rows = [listing.cells(row) for row in found["rows"]]
    head, *lines = table(listing.HEAD[:-1], [cells[:-1] for cells in rows], listing.RIGHT)
    console.print("", Text(f"  {head}", TONES["dim"]), sep="\n")
    for row, cells, line in zip(found["rows"], rows, lines, strict=True):
        text = Text(f"  {line}", overflow="fold")
        text.highlight_words([f" {row['state']} "], TONES[row["state"]])
        console.print(text)
        if cells[-1]:
            why = Text(cells[-1], TONES["dim"], overflow="fold")
            console.print(Padding(why, (0, 0, 0, 6), expand=False))
    if more := listing.rest(found):
        console.print(Text(f"  {more}", TONES["dim"]))
    console.print()
