"""`make bench`: every figure as a ratio (or a plain count), all in one run on one machine.

Arguments choose by name (shim, events, queue, folder, zstor, audit, zdb, checkpoint, restore); none
means all. Exit 0 whatever the figures are: they are for reading, not for failing a build on a busy
machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import audit, checkpoint, drains, intake, mount, restore, zdb
from tests.bench.harness import Line

BENCHES: dict[str, Callable[[Path, Path], list[Line]]] = {
    "shim": intake.shim_process,
    "events": intake.throughput,
    "queue": intake.long_queue,
    "folder": drains.into_folder,
    "zstor": drains.through_zstor,
    "audit": audit.of_many_files,
    "zdb": zdb.with_hook,
    "checkpoint": checkpoint.of_zdb,
    "mount": mount.beside_rclone,
    "restore": restore.of_many_files,
}


def main() -> int:
    """Run them and print the table."""
    chosen = sys.argv[1:] or list(BENCHES)
    if unknown := [name for name in chosen if name not in BENCHES]:
        print(f"bench: no {unknown[0]!r}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    console = Console()
    lines: list[Line] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hookd-bench-") as folder:
        tools = Path(folder)
        for name in chosen:
            console.print(f"[dim]measuring {name} …[/dim]")
            base = tools / f"bench-{name}"
            base.mkdir()
            lines.extend(BENCHES[name](base, tools))
    table = Table(title="hookd bench", title_justify="left")
    for header in ("measured", "value", "goal", "", "in figures"):
        table.add_column(header, justify="right" if header in ("value", "goal") else "left")
    for line in lines:
        mark = {True: "[green]held[/]", False: "[red]missed[/]", None: "[dim]–[/]"}[line.held]
        table.add_row(line.what, line.value, line.goal, mark, line.detail)
    console.print(table)
    load = os.getloadavg()[0]
    console.print(
        f"[dim]{os.cpu_count()} cores, load {load:.1f}, {time.monotonic() - began:.0f} s in all[/dim]"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
