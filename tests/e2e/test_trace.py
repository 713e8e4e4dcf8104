"""The recorded life of a real zdb through the real shim and daemon, in one piece and in pieces."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hookd.demo.trace import Step
from hookd.event import BLOCKING
from hookd.wire import EventFrame, encode
from tests.e2e.daemon import Daemon
from tests.e2e.player import Player, Zdb, moving

pytest_plugins = ["tests.shim_build", "tests.e2e.recorded"]


@pytest.fixture
def player(daemon: Daemon, listener: Zdb) -> Iterator[Player]:
    made = Player(daemon, listener)
    yield made
    made.collect()


def test_all_of_it(player: Player, steps: list[Step]) -> None:
    """Every hook exits as it did in the record; the store holds what zdb had, to the byte."""
    player.daemon.start()
    player.play(steps)
    assert player.codes == {step.number: step.exit for step in steps}
    player.finish()
    asked = [step for step in steps if step.asked_back]
    assert len(player.daemon.logged("retrieved")) == len(asked) > 0


def test_without_a_daemon_in_the_middle(player: Player, steps: list[Step]) -> None:
    """What happens while the daemon is dead is spooled, and stored once it is back.

    jump-index then says 1, so that zdb keeps its list of rewritten index files.
    """
    begin = next(step.number for step in steps if step.hook == "jump-index")
    vanish = next(
        step.number
        for before, step in itertools.pairwise(steps)
        if before.files.keys() - step.files.keys()
    )
    player.daemon.start()
    player.play(steps[:begin])
    player.daemon.kill()
    middle = steps[begin:vanish]
    player.play(middle, HOOKD_TIMEOUT_S="0.05")
    expected = {step.number: int(step.hook == "jump-index") for step in middle}
    assert {number: player.codes[number] for number in expected} == expected
    assert len(list(player.daemon.spool.glob("*.event"))) == len(middle)
    player.daemon.start()
    player.play(steps[vanish:])
    assert set(list(player.codes.values())[vanish:]) == {0}
    player.finish()
    assert player.daemon.rows("SELECT count(*) FROM events WHERE origin = 'spool'") == [
        (len(middle),)
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_late_hooks_in_any_order(player: Player, steps: list[Step], seed: int) -> None:
    """Hooks that zdb does not wait for may come much later, and after ones that it called later."""
    dice = random.Random(seed)
    late: list[Step] = []
    swapped = 0

    def deliver(count: int) -> None:
        nonlocal swapped
        for _ in range(count):
            step = late.pop(dice.randrange(len(late)))
            swapped += any(other.number < step.number for other in late)
            called = player.daemon.hook(*player.replay.argv(step))
            assert called.code == 0, called.text

    player.daemon.start()
    for step in steps:
        if player.replay.vanishing(step):
            deliver(len(late))  # what was evicted had been announced
        player.lay_out(step)
        if step.hook not in BLOCKING:
            late.append(step)
        else:
            called = player.daemon.hook(*player.replay.argv(step))
            assert called.code == 0, called.text
        if step.asked_back:
            assert player.replay.returned(step.asked_back)
        deliver(dice.randrange(2) if late else 0)
    deliver(len(late))
    assert swapped > 5
    player.finish()


def test_every_event_three_times(player: Player, steps: list[Step]) -> None:
    """Under one id an event is done once: over two connections at once, and over the spool."""
    daemon, dice = player.daemon, random.Random(0)
    daemon.start()
    frames = []
    with ThreadPoolExecutor(2) as pool:
        for step in steps:
            player.lay_out(step)
            frame = EventFrame(
                event_id=dice.randbytes(16),
                timeout_ms=5000,
                cwd="/",
                argv=tuple(player.replay.argv(step)),
            )
            frames.append(frame)
            answers = list(pool.map(daemon.hand_in, [frame, frame]))
            assert [answer.code for answer in answers] == [0, 0]
            if step.asked_back:
                assert player.replay.returned(step.asked_back)
    settled = daemon.until(lambda s: not moving(s))["totals"]["settled_files"]
    for number, frame in enumerate(frames):
        beside = daemon.folder / f"{number:020d}-{frame.event_id.hex()}.event"
        beside.write_bytes(encode(frame))
        beside.rename(daemon.spool / beside.name)
    seen = daemon.until(lambda s: not s["spool"]["waiting"] and not moving(s))
    assert seen["totals"]["events"]["duplicate"] == 2 * len(steps)
    assert seen["totals"]["settled_files"] == settled
    player.finish()
    assert daemon.rows("SELECT count(*) FROM events") == [(len(steps),)]
