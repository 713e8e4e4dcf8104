"""The first program of the storage image: `hookd mount`, or the command that was asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "rootfs/usr/bin/storage-init"
SHOW = """#!/bin/bash
echo "${0##*/} $*"
exec grep SigBlk /proc/self/status
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With a hookd and another program that say how they were called, and what is blocked."""
    for name in ("hookd", "show"):
        (tmp_path / name).write_text(SHOW)
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def run(path: str, *words: str) -> tuple[str, bool]:
    """As the image does; what ran, and whether SIGTERM and SIGINT are blocked in it."""
    done = subprocess.run(
        ["env", "--block-signal=TERM,INT", SCRIPT, *words],
        env={"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    called, blocked = done.stdout.splitlines()
    mask = int(blocked.split()[1], 16)
    assert bool(mask & 1 << 14) == bool(mask & 1 << 1)
    return called, bool(mask & 1 << 14)


@pytest.mark.parametrize(
    ("words", "called"),
    [
        ([], "hookd mount"),
        (["--wait-remote"], "hookd mount --wait-remote"),
        (["wait", "--timeout", "5"], "hookd mount wait --timeout 5"),
        (["cleanup"], "hookd mount cleanup"),
        (["hookd", "mount", "--wait-remote"], "hookd mount --wait-remote"),
    ],
)
def test_mount(path: str, words: list[str], called: str) -> None:
    """A stop signal in its first moment waits for it."""
    assert run(path, *words) == (called, True)


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["show"], "show "),
        (["show", "-c", "a b"], "show -c a b"),
        (["hookd", "status"], "hookd status"),
        (["hookd"], "hookd "),
    ],
)
def test_another_command(path: str, words: list[str], called: str) -> None:
    """As if it were the entrypoint: its signals are its own."""
    assert run(path, *words) == (called, False)


def test_a_command_that_is_not_there(path: str) -> None:
    """As docker says it."""
    done = subprocess.run(
        [SCRIPT, "nothing-like-it"],
        env={"PATH": path},
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 127
