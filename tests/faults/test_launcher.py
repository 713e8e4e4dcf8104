"""The faults are put in by the launcher alone: nothing of the product can be told to fail."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hookd import faults
from tests.e2e.daemon import LAUNCHER, Daemon
from tests.faults.launcher import Fault
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

SOURCES = sorted(Path(faults.__file__).parent.rglob("*.py"))


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the product."""
    for path in SOURCES:
        yield path.name, ast.parse(path.read_text())


def test_every_step_is_passed() -> None:
    """The names in the sources are those of STEPS, each once: no test waits for one that is gone."""
    found = [
        str(call.args[0].value)
        for _, tree in trees()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("faults.point", "point")
        and isinstance(call.args[0], ast.Constant)
    ]
    assert sorted(found) == sorted((*faults.STEPS, *faults.RESTORE_STEPS))


def test_nothing_sets_the_faults() -> None:
    """`hit` is assigned where it is declared, and nowhere else; that module knows no environment."""
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                set_here = {ast.unparse(target) for target in targets}
                assert "faults.hit" not in set_here, name
                assert "hit" not in set_here or name == "faults.py"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
                assert "faults" not in ast.unparse(node), name
    imports = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(Path(faults.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imports == [
        "from __future__ import annotations",
        "from collections.abc import Callable",
    ]


def test_no_variable_reaches_them(shim: Path, tmp_path: Path) -> None:
    """Whatever the environment asks for, a daemon and its shims live on through every step."""
    asked = ",".join(faults.STEPS)
    variables = dict.fromkeys(
        ("HOOKD_FAULT", "HOOKD_FAULTS", "HOOKD_KILL", "FAULT", "FAULTS", "KILL"), asked
    )
    settings = [f"{name}={value}" for name, value in variables.items()]
    daemon = Daemon(tmp_path, shim, launcher=("env", *settings, *LAUNCHER))
    (daemon.index / "ns").mkdir()
    (daemon.index / "ns" / "zdb-namespace").write_bytes(b"settings")
    try:
        daemon.start()
        for step in (*faults.STEPS, "connected", "sent", "answered"):
            called = daemon.hook(
                "namespace-updated", "unix:///nowhere", "ns", **variables | {"HOOKD_FAULT": step}
            )
            assert called.code == 0
        daemon.until_stored()
        assert daemon.stop() == 0
    finally:
        daemon.expect("zdb ended without its closing hooks")
        daemon.close()


@pytest.mark.parametrize("text", ["put-begin:1", "commit-done:12", "verified:3:ENOSPC"])
def test_options(text: str) -> None:
    """A fault is written as it is read."""
    assert str(Fault.parse(text)) == text


@pytest.mark.parametrize("text", ["put", "", "put-begin:x", "put-begin:1:ENOTHING"])
def test_no_such_fault(text: str) -> None:
    """A slip in a test is no fault that never happens."""
    with pytest.raises((ValueError, AttributeError)):
        Fault.parse(text)


def test_dies_when_told(world: World) -> None:
    """At the second passing, not the first, and by SIGKILL."""
    world.start("--fault", "settled:2")
    # the scan of the start would settle the first one a second time
    world.daemon.until(lambda s: s["audit"]["runs"]["done"])
    for number in (0, 1):
        assert world.daemon.running
        name = f"ns{number}"
        (world.daemon.index / name).mkdir()
        (world.daemon.index / name / "zdb-namespace").write_bytes(os.urandom(9))
        world.daemon.hook("namespace-created", "unix:///nowhere", name)
        world.until(partial(world.stored, f"index/{name}/zdb-namespace"), "not stored")
    assert world.daemon.wait() == -signal.SIGKILL
    assert world.daemon.faults() == [Fault("settled", 2)]
