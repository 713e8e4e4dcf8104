"""A small file system that fills up, for the tests of what a full disk does. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, *, size_kib: int) -> Iterator[Path]:
    """`folder` as a tmpfs of so many KiB; skips the test where that cannot be mounted."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    options = f"size={size_kib}k,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "hookd-test", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, *, leave_kib: int = 0) -> Path:
    """Take all room of the disk but so many KiB; returns the file to remove to have it back."""
    ballast = folder / "ballast"
    # Written, not allocated in one call: that fails as a whole when someone else takes a page meanwhile.
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    if leave_kib:
        os.truncate(ballast, max(0, ballast.stat().st_size - leave_kib * 1024))
    return ballast
