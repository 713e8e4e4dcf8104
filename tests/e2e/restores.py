"""`hookd restore` and the zdb of which it restores, for its tests."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import REPOSITORY, Daemon
from tests.fakes.zdb import FakeZdb

NAMES = ("ns", "other")


def restore(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the verb."""
    command = [sys.executable, "-m", "hookd", "restore", *arguments, "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


@pytest.fixture
def lived(daemon: Daemon, zdb: FakeZdb) -> FakeZdb:
    """Two namespaces, all stored; daemon and zdb have ended."""
    daemon.start()
    assert zdb.start() == 0
    for name in NAMES:
        zdb.create(name)
        for _ in range(2):
            zdb.churn(name, 6)
            zdb.rotate(name)
        zdb.churn(name, 2)
    zdb.finish_hooks()  # on a busy machine an earlier one could come after the closing ones
    zdb.stop()
    zdb.finish_hooks()
    assert daemon.stop() == Exit.OK
    return zdb


def wipe(daemon: Daemon) -> None:
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    shutil.rmtree(daemon.journal.parent)
