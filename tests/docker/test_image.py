"""The image qsfs itself: what it says of itself, how large it is, what is and is not in it."""

from __future__ import annotations

import json
from typing import Any

from tests.docker import image as images
from tests.docker.container import Container
from tests.docker.container import docker as client

COMPONENTS = ("zdb", "zdbfs", "zstor", "zinit")
ADDED_BYTES = 90_000_000


def inspected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client("image", "inspect", name).stdout)[0]
    return found


def inside(image: str, script: str) -> str:
    """What a shell script prints in it, its entrypoint put aside."""
    return client("run", "--rm", "--entrypoint", "sh", image, "-c", script).stdout.strip()


def test_what_it_says(image: str) -> None:
    """Labels of the OCI, the signal that stops it, a volume, and PID 1."""
    config = inspected(image)["Config"]
    labels = {
        key.removeprefix("org.opencontainers.image."): v for key, v in config["Labels"].items()
    }
    assert labels["title"] == "qsfs"
    assert all(labels[key] for key in ("description", "licenses", "version", "revision"))
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == ["/data"]
    assert config["Entrypoint"] == ["env", "--block-signal=TERM,INT", "qsfs-init"]


def test_size(image: str) -> None:
    """What it adds to its base, the four programs left out."""
    programs = inside(image, f"cd /usr/bin && stat -c %s {' '.join(COMPONENTS)}").split()
    assert len(programs) == len(COMPONENTS)
    added = inspected(image)["Size"] - inspected(images.BASE)["Size"] - sum(map(int, programs))
    assert 0 < added <= ADDED_BYTES


def test_nothing_to_build_with(image: str) -> None:
    """Compilers and pip stay in the stage that makes the wheel."""
    for program in ("gcc", "cc", "make", "pip", "pip3", "git", "curl"):
        assert inside(image, f"command -v {program} || echo none") == "none"


def test_the_health_check(image: str, qsfs: Container) -> None:
    """Healthy once it is mounted; not while hookd is away, whose exit code it is."""
    kind, script = inspected(image)["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD-SHELL"
    qsfs.start()
    qsfs.until(lambda: qsfs.run(script, check=False) == 0, "healthy")
    qsfs.run("zinit stop hookd; kill -KILL $(cat /run/hookd/stats.sock.lock)")
    assert qsfs.run(script, check=False) == 1
    qsfs.run("zinit start hookd")
    qsfs.until(lambda: qsfs.run(script, check=False) == 0, "healthy again")
    assert qsfs.stop() == 0
