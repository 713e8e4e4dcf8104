"""Fixtures: a served folder and a mount of it. Skipped, with the reason, where none can be made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import HookdMount, Server, missing


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """WebDAV, started."""
    if why := missing():
        pytest.skip(why)
    made = Server(tmp_path / "remote")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def mount(server: Server, tmp_path: Path) -> Iterator[HookdMount]:
    """A mount of it, not started."""
    made = HookdMount(tmp_path, server)
    yield made
    made.close()
