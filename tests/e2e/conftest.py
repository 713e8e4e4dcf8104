"""Fixtures: a daemon in the test's own folder, and a zdb beside it.

They need the fixture `shim`: modules that use them say `pytest_plugins = ["tests.shim_build"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import PATIENCE_S, Daemon
from tests.e2e.restores import NAMES
from tests.fakes.zdb import FakeZdb


@pytest.fixture
def daemon(shim: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a directory store, not started."""
    made = Daemon(tmp_path, shim)
    yield made
    made.close()


@pytest.fixture
def zdb(daemon: Daemon, shim: Path) -> Iterator[FakeZdb]:
    """A zdb over the daemon's folders, not started. Its shims have to find the daemon there."""
    patient = {**daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    made = FakeZdb(daemon.folder, shim=shim, environment=patient)
    yield made
    made.kill()
    made.finish_hooks()


@pytest.fixture
def lived(daemon: Daemon, zdb: FakeZdb) -> FakeZdb:
    """Two namespaces, all stored; daemon and zdb have ended."""
    daemon.expect("will retry")  # the scan of the start may see what zdb is just making
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
