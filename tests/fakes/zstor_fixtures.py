"""Fixtures: a fake zstor, zdb's folders (`pytest_plugins = ["tests.fakes.zstor_fixtures"]`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.files import Roots
from tests.fakes.zstor import FakeZstor


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """zdb's folders, with those of the namespace `ns`."""
    for name in ("index/ns", "data/ns"):
        (tmp_path / name).mkdir(parents=True)
    return Roots(tmp_path / "index", tmp_path / "data")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeZstor]:
    """One that behaves as it is told."""
    with FakeZstor(tmp_path / "zstor.sock") as fake:
        yield fake
