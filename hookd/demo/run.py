"""`hookd demo`: the folder, the acts, the verdict."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from hookd.demo.report import Report
from hookd.demo.screen import Screen
from hookd.demo.stage import DemoFailed, Stage, find_shim
from hookd.demo.trace_act import TraceAct
from hookd.demo.zdb_act import ZdbAct, zdb_is_here
from hookd.errors import Exit, UserError

Act = Callable[[Stage, Screen, Report], TraceAct | ZdbAct]


def main(arguments: argparse.Namespace) -> int:
    """Run the demo as `arguments` say (dir, keep, quick, no_color).

    Returns 0 if every check holds, else 1, with the folder left as it is. Raises UserError where it
    cannot begin.
    """
    shim = find_shim()
    screen = Screen(color=not arguments.no_color)
    folder, made = _folder(arguments.dir)
    before = signal.signal(signal.SIGTERM, _interrupt)
    keep = True
    try:
        good = _play(folder, shim, screen, quick=arguments.quick)
        keep = arguments.keep or not good
    except KeyboardInterrupt:
        keep = arguments.keep
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if keep:
            screen.line(f"The folder is left for a look around: {folder}")
        else:
            _clear(folder, made)
    return Exit.OK if good else Exit.FAILED


def _play(folder: Path, shim: Path, screen: Screen, *, quick: bool) -> bool:
    """The acts and what came of them; returns whether all is well."""
    began = time.monotonic()
    screen.line("hookd at work: real processes, and things going wrong on purpose", "bold")
    reports: list[Report] = []
    for title, act in acts(screen, quick=quick):
        report = Report(title)
        reports.append(report)
        screen.act(title)
        stage = Stage(folder / f"act{len(reports)}", shim)
        try:
            act(stage, screen, report).run()
        except DemoFailed as error:
            report.claim(str(error), False)
        finally:
            stage.close()
    for report in reports:
        screen.files(report)
    screen.events(reports)
    screen.mishaps(reports)
    screen.verdict(reports, time.monotonic() - began)
    return not any(report.broken for report in reports)


def acts(screen: Screen, *, quick: bool) -> list[tuple[str, Act]]:
    """(title, act) of what can be shown here."""
    found: list[tuple[str, Act]] = [("A recorded zdb", TraceAct)]
    if quick:
        return found
    if not zdb_is_here():
        screen.line("There is no zdb on PATH: only a recorded one is shown.")
        return found
    return [*found, ("A living zdb", ZdbAct)]


def _folder(wanted: Path | None) -> tuple[Path, bool]:
    """Where to work, and whether it was made here. Raises UserError for one with files in it."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="hookd-demo-")), True
    folder = Path(os.path.abspath(wanted))
    try:
        made = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        raise UserError(f"--dir: {folder}: {error.strerror}", code=Exit.USAGE) from error
    if taken:
        raise UserError(
            f"--dir: {folder} has files in it; name an empty folder, or one that is not there",
            code=Exit.USAGE,
        )
    return folder, made


def _clear(folder: Path, made: bool) -> None:
    """Remove what the demo has made, and nothing else."""
    for act in folder.glob("act[0-9]"):
        shutil.rmtree(act)
    if made:
        folder.rmdir()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does: its processes go first, then its folder."""
    raise KeyboardInterrupt
