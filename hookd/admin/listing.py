"""The queue as a plain, aligned table that reads well with `nc` and in a pipe."""

from __future__ import annotations

from typing import Any

from hookd.admin.words import count, duration, number, one_line, size, table

HEAD = ("ID", "STATE", "SIZE", "AGE", "TRIES", "FILE", "WHY")
RIGHT = frozenset({0, 2, 3, 4})


def queue_text(found: dict[str, Any]) -> str:
    """The answer of `queue`: head, rows, and a last line when there are more."""
    if not found["rows"]:
        return nothing(found)
    lines = table(HEAD, (cells(row) for row in found["rows"]), RIGHT)
    if more := rest(found):
        lines.append(more)
    return "\n".join(lines)


def nothing(found: dict[str, Any]) -> str:
    """What to say where there is no row."""
    return f"no file is {found['state']}" if found["state"] else "the queue is empty"


def rest(found: dict[str, Any]) -> str | None:
    """What to say of rows beyond the limit."""
    more = found["total"] - found["shown"]
    return f"and {count(more, 'file')} more" if more else None


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The texts of one row, in the order of HEAD."""
    return (
        str(row["id"]),
        row["state"],
        "?" if row["bytes"] is None else size(row["bytes"]),
        duration(row["age_s"]),
        number(row["attempts"]),
        one_line(row["file"]),
        one_line(why(row)),
    )


def why(row: dict[str, Any]) -> str:
    """What a file waits for: another file, or the end of an error."""
    if row["waits_for"]:
        return f"waits for {row['waits_for']}"
    if row["error"]:
        return f"{row['error_class']}: {row['error']}" if row["error_class"] else row["error"]
    return ""
