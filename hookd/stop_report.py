"""How a stop ended: the last lines for whoever started the daemon, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hookd.drain import Verdict
from hookd.errors import Exit
from hookd.parts import Parts


def report(
    parts: Parts, verdict: Verdict | None, *, why: str, unheld: Sequence[str]
) -> tuple[Exit, list[str]]:
    """The code and the lines. `why` there is no verdict; `unheld`: what is left and no line holds."""
    left = len(parts.scheduler) + parts.spool.coming()
    empty = verdict is Verdict.EMPTY and left == 0 and not unheld
    lines = [f"not stored: {line}" for line in unheld]
    lines.extend(_last(parts, verdict, why, left, unheld))
    return (Exit.OK if empty else Exit.TEMPFAIL), lines


def _last(
    parts: Parts, verdict: Verdict | None, why: str, left: int, unheld: Sequence[str]
) -> Iterator[str]:
    if verdict is Verdict.EMPTY and left == 0 and unheld:
        more = f"; {len(unheld) - 1} more above" if len(unheld) > 1 else ""
        yield f"stopped with something not stored: {unheld[0]}{more}"
    elif verdict is Verdict.EMPTY and left == 0:
        counts = parts.dispatcher.counts
        mib = counts.settled_bytes / (1 << 20)
        yield f"drained: nothing is left; {counts.settled_files} files, {mib:.1f} MiB were stored"
    elif verdict is Verdict.STUCK and parts.fence.fenced is not None:
        yield f"stopped with {left} files not stored: {parts.fence.fenced}"
    elif verdict is Verdict.STUCK:
        yield (
            f"stopped with {left} files not stored: they are quarantined, wait for one that is, or for"
            " the room that its snapshot takes;"
            " `hookd queue` after the next start says why, `hookd retry` or `hookd skip` decides"
        )
    else:
        why = verdict.value if verdict is not None else why
        yield (
            f"stopped with {left} files not stored ({why}); they are kept in"
            f" {parts.config.journal.path} and stored after the next start"
        )
