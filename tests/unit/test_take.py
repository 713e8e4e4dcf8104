"""`hookd restore --take`: the line that says what will come of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hookd.admin.verbs import take
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import EXPECTED, NS, files_of, fill, store_all, zdb_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED, "choice")


def parts_of(found: Rig, *, serving: bool = False) -> Any:
    """As much of a daemon as a choice needs."""
    return SimpleNamespace(
        survey=found.survey,
        fence=found.fence,
        scheduler=found.scheduler,
        dispatcher=found.dispatcher,
        life=SimpleNamespace(started=serving),
    )


async def test_remote_names_what_is_there(tmp_path: Path) -> None:
    """Whose manifest it is, and how old; without one, plain words."""
    zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store) as found:
        parts = parts_of(found)
        assert "what is stored is brought back" in await take(parts, NS, "remote", 0)
        fill(store, files_of(tmp_path), named=True, writer="0123456789")
        said = await take(parts, NS, "remote", 0)
        assert "manifest 7 of 01234567, written" in said
        assert found.survey.choices.of(NS) == "remote"


async def test_remote_with_the_store_away(tmp_path: Path) -> None:
    """It is kept, and the line says what it will mean."""
    store = MemoryStore()
    store.down = "away"
    async with rig(tmp_path, store) as found:
        said = await take(parts_of(found), NS, "remote", 0)
        assert "the store cannot be read now" in said
        assert "what is stored by then" in said
        assert "\n" not in said
        assert found.survey.choices.of(NS) == "remote"


async def test_local_says_when_it_is_safe(tmp_path: Path) -> None:
    """Until all is stored neither history is whole anywhere but here."""
    zdb_at(tmp_path)
    async with rig(tmp_path, MemoryStore()) as found:
        await found.fence.guard()
        await store_all(found)
        said = await take(parts_of(found, serving=True), NS, "local", 0)
        assert "says that it is safe" in said
