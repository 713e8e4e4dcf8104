"""The image `storage`: what the side-task needs is in it, and no more."""

from __future__ import annotations

import re
import uuid

from tests.docker.container import docker as client


def run(image: str, *command: str) -> str:
    """What a command in it prints, its entrypoint put aside."""
    program, *arguments = command
    done = client("run", "--rm", "--entrypoint", program, image, *arguments, check=False)
    return done.stdout + done.stderr


def test_programs(storage: str) -> None:
    """rclone that is new enough, fusermount3, a shell and curl for tasks; nothing to build with."""
    found = re.search(r"rclone v(\d+)\.(\d+)\.(\d+)", run(storage, "rclone", "version"))
    assert found is not None
    assert tuple(map(int, found.groups())) >= (1, 74, 3)
    for program in ("fusermount3", "bash", "sh", "curl", "hookd"):
        assert run(storage, "sh", "-c", f"command -v {program}").strip().endswith(program)
    for program in ("gcc", "cc", "make", "pip", "pip3", "git"):
        assert run(storage, "sh", "-c", f"command -v {program} || echo none").strip() == "none"


def test_entrypoint(storage: str) -> None:
    """`hookd mount`, stopped by SIGTERM, which is blocked before the interpreter starts."""
    told = client(
        "image", "inspect", "-f", "{{.Config.Entrypoint}} {{.Config.StopSignal}}", storage
    )
    assert told.stdout.strip() == "[env --block-signal=TERM,INT storage-init] SIGTERM"
    done = client("run", "--rm", storage, check=False)
    assert done.returncode == 78
    assert "mount.local_path" in done.stderr
    done = client("run", "--rm", storage, "cleanup", check=False)
    assert done.returncode == 78
    done = client("run", "--rm", storage, "hookd", "mount", "--help")
    assert "usage: hookd mount" in done.stdout


def test_a_command(storage: str) -> None:
    """`... IMAGE /bin/bash`, as older instructions have it, runs that: its code, its signals."""
    done = client(
        "run", "--rm", storage, "/bin/bash", "-c", "echo $$ $0 $1; exit 7", "a b", check=False
    )
    assert (done.returncode, done.stdout) == (7, "1 a b\n")
    name = f"hookd-test-{uuid.uuid4().hex[:12]}"
    client("run", "-d", "--name", name, storage, "sh", "-c", "trap 'exit 3' TERM; sleep 99 & wait")
    try:
        client("stop", "--time", "20", name)
        assert client("inspect", "-f", "{{.State.ExitCode}}", name).stdout.strip() == "3"
    finally:
        client("rm", "--force", name)


def test_healthcheck(storage: str) -> None:
    """By what hookd knows of the mount, never by a look into it that could hang."""
    told = client("image", "inspect", "-f", "{{json .Config.Healthcheck.Test}}", storage)
    assert "hookd mount wait" in told.stdout
    assert "hookd health" in told.stdout
