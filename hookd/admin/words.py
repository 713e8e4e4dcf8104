"""Numbers and names in the words of a person. Pure, and cheap to import.

Owns the invariant that text from outside (a namespace's name, an error of a store) is one line
without terminal escapes before it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Bytes: `0 B`, `48 MiB`, `1.5 GiB`."""
    value, unit = float(count), 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    text = f"{value:.1f}".removesuffix(".0")
    return f"{text} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Seconds, in the two largest units that say something: `12 s`, `2 h 5 min`, `3 d`."""
    if seconds < 1:
        return "less than 1 s"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    parts = [(days, "d"), (h, "h"), (m, "min"), (s, "s")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{value} {unit}" for value, unit in parts[:2] if value)


def number(count: int) -> str:
    """`12,345`."""
    return f"{count:,}"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """`1 file`, `12,345 files`."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def verb(amount: int, one: str, many: str) -> str:
    """The form of a verb that goes with `amount`."""
    return one if amount == 1 else many


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {number(len(names) - most)} more"


def one_line(text: str) -> str:
    """`text` with each control character, escape and lone surrogate as a backslash sequence."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int]) -> list[str]:
    """Columns of equal width, two spaces apart; those in `right` are aligned right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [
        "  ".join(
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def nameless_line(name: str) -> str:
    """What is to be done about a namespace whose name is no UTF-8."""
    return (
        f"namespace {name} is not stored: its name is no UTF-8, which neither the store nor the journal"
        " can hold; copy what it holds into another namespace, then delete it (NSDEL)"
    )


def elsewhere_line(folder: str, events: int, spool: object) -> str:
    """What is to be done about a spool folder that only zdb was told."""
    return (
        f"zdb's HOOKD_SPOOL is {one_line(folder)}, hook.spool is {spool}: {count(events, 'event')} there"
        " that nobody takes in; make them the same, move the files over, start zdb again"
    )
