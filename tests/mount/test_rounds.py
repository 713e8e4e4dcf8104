"""Many kills and stops at random moments, and a restart with much left: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from tests.mount.rig import HookdMount, Server

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROUNDS = 20
FILES_A_ROUND = 10
SEED = int(os.environ.get("HOOKD_TEST_SEED", "20"))


@pytest.mark.timeout(600)
def test_random_kills_and_stops(mount: HookdMount, server: Server) -> None:
    """20 rounds: rclone, hookd or both killed, or a stop, while files are written. 0 of 200 are lost.

    Some are written over ones that are there: none stays the old one.
    """
    luck = random.Random(SEED)
    mount.settings |= {"write_back_s": 0.2, "remote_wait_s": 10}
    closed: dict[str, bytes] = {}
    for number in range(ROUNDS):
        mount.start()
        made = {f"r{number}-{each}": os.urandom(8192) for each in range(FILES_A_ROUND)}
        if number:  # and over one that is there, or in the cache
            made[f"r{luck.randrange(number)}-{luck.randrange(FILES_A_ROUND)}"] = os.urandom(9000)

        def write(made: dict[str, bytes] = made) -> None:
            """A task that writes, and tries again while it gets errors, as one that cares does.

            It does not ask what is mounted: a write that succeeds is to be believed.
            """
            for name, content in made.items():
                while True:
                    try:
                        (mount.point / name).write_bytes(content)
                        closed[name] = content
                        break
                    except OSError:
                        time.sleep(0.02)
                time.sleep(luck.random() * 0.03)

        task = threading.Thread(target=write)
        what = luck.choice(["rclone", "hookd", "both", "stop"])
        if what == "stop":  # its tasks are gone when a container is stopped
            write()
            assert mount.stop(luck.choice([signal.SIGTERM, signal.SIGINT])) == 0
            continue
        task.start()
        time.sleep(luck.random() * 0.3)
        if what in ("hookd", "both"):
            mount.kill()
        if what in ("rclone", "both"):
            mount.kill_rclone()
        if what == "both":
            mount.start()
        task.join(60)
        told = f"round {number}, {what}: {len(closed)} files\n{mount.log.read_text()[-4000:]}"
        assert not task.is_alive(), told
        if what == "rclone":
            assert mount.stop() == 0
        elif what == "both":
            mount.kill()
    mount.start()
    assert mount.stop() == 0
    found = server.files()
    assert len(closed) == ROUNDS * FILES_A_ROUND
    assert {name for name, content in closed.items() if found.get(name) != content} == set()


@pytest.mark.timeout(300)
def test_restart_with_500_left(mount: HookdMount, server: Server) -> None:
    """Both killed with 500 files waiting: all are on the remote when it says ready."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(500, size=1024)
    mount.kill()
    mount.kill_rclone()
    mount.start(wait=False)
    mount.wait_for_line("resuming: 500 files")
    mount.wait_for_line("resumed: 500 of 500", within_s=120)
    mount.until_stats(lambda s: s["ready"])
    assert server.files() == made
    assert mount.stop() == 0
