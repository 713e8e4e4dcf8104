"""`hookd restore` and the zdb of which it restores, for its tests."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.e2e.daemon import REPOSITORY, Daemon

NAMES = ("ns", "other")


def restore(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the verb."""
    command = [sys.executable, "-m", "hookd", "restore", *arguments, "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


def wipe(daemon: Daemon) -> None:
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    shutil.rmtree(daemon.journal.parent)
