"""The shim, compiled for tests: fixtures for modules with `pytest_plugins = ["tests.shim_build"]`.

The flags are stricter than those of the build: what warns fails.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parents[1] / "hookd" / "shim"
_FLAGS = (
    *("-std=c11", "-O2", "-static", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"),
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"),
    "-Werror",
)


def compile_shim(target: Path, *defines: str) -> Path:
    """Compile the shim into `target`, with `-D` for each of `defines`. A warning is an error."""
    command = [*shlex.split(os.environ.get("CC", "cc")), *_FLAGS, *(f"-D{d}" for d in defines)]
    sources = sorted(str(path) for path in _SOURCES.glob("*.c"))
    run = subprocess.run(
        [*command, *sources, "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return target


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim as it is shipped."""
    return compile_shim(tmp_path_factory.mktemp("shim") / "hookd-shim")


@pytest.fixture(scope="session")
def faulty_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shim that kills itself at the step which $HOOKD_FAULT names."""
    return compile_shim(tmp_path_factory.mktemp("faulty") / "hookd-shim", "HOOKD_FAULTS")


@pytest.fixture(scope="session")
def old_kernel_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shim for kernels without close_range (before 5.9)."""
    return compile_shim(tmp_path_factory.mktemp("old") / "hookd-shim", "HOOKD_NO_CLOSE_RANGE")
