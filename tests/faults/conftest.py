"""Fixtures: a zdb, a daemon and a store in the test's own folder.

They need the fixture `shim`: modules that use them say `pytest_plugins = ["tests.shim_build"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.world import World


@pytest.fixture
def world(shim: Path, tmp_path: Path) -> Iterator[World]:
    """One with short waits, and nothing started."""
    made = World(tmp_path, shim)
    yield made
    made.close()
