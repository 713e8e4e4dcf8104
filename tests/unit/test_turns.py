"""Turns: what freezes files goes side by side, a deletion alone."""

from __future__ import annotations

import asyncio

import pytest

from hookd.turns import Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Told:
    """What went in and out, in its order."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.lines: list[str] = []
        self.leave = {name: asyncio.Event() for name in "abcd"}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, name: str, *, alone: bool = False, namespace: str = "ns") -> None:
        """Go in as far as it gets."""

        async def work() -> None:
            turn = self.turns.alone if alone else self.turns.beside
            async with turn(namespace):
                self.lines.append(f"{name} in")
                await self.leave[name].wait()
                self.lines.append(f"{name} out")

        self._tasks.append(asyncio.ensure_future(work()))
        await asyncio.sleep(0.001)

    async def end(self, *names: str) -> list[str]:
        for name in names:
            self.leave[name].set()
            await asyncio.sleep(0.001)
        return self.lines

    async def cancel(self, number: int) -> None:
        self._tasks[number].cancel()
        await asyncio.sleep(0.001)


async def test_side_by_side() -> None:
    told = Told()
    await told.start("a")
    await told.start("b")
    assert await told.end("a", "b") == ["a in", "b in", "a out", "b out"]


async def test_alone() -> None:
    """After all that came before it, before all that came after it."""
    told = Told()
    await told.start("a")
    await told.start("b", alone=True)
    await told.start("c")
    await told.start("d", alone=True)
    assert (await told.end("a", "b"))[:4] == ["a in", "a out", "b in", "b out"]
    assert sorted(await told.end("c", "d")) == sorted(
        f"{name} {way}" for name in "abcd" for way in ("in", "out")
    )


async def test_another_namespace() -> None:
    told = Told()
    await told.start("a", alone=True)
    await told.start("b", namespace="other")
    assert told.lines == ["a in", "b in"]
    await told.end("a", "b")


@pytest.mark.parametrize("number", [0, 1])
async def test_cancelled(number: int) -> None:
    """Whoever is given up, before or after it went in, holds up nobody."""
    told = Told()
    await told.start("a")
    await told.start("b", alone=True)
    await told.cancel(number)
    await told.end("a", "b")
    await told.start("c", alone=True)
    assert "c in" in told.lines
    await told.end("c")
