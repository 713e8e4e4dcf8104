"""Builds the images for the tests: `build("qsfs")`, or `python -m tests.docker.image qsfs`; with
`--check` only says whether it could.

The base is debian:bookworm-slim from the registry, else a debootstrap of the same Debian. Programs come
from rootfs/components/ where they lie, else from PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COMPONENTS = REPOSITORY / "rootfs" / "components"
DEBIAN = "debian:bookworm-slim"
BASE = "hookd-test-base:bookworm"
CERTIFICATES = "/etc/ssl/host-ca.crt"
"""Where the host's certificates are in BASE; the usual place is rewritten by ca-certificates."""

PROGRAMS = {
    "zdb": ("zdb",),
    "zdbfs": ("zdbfs-static", "zdbfs"),
    "zstor": ("zstor-0.4.0", "zstor"),
    "zinit": ("zinit-0.2.10", "zinit"),
    "rclone": ("rclone",),
}
"""Component → its names on PATH; the first that is there is taken."""

NEEDED = {"qsfs": ("zdb", "zdbfs", "zstor", "zinit"), "storage": ("rclone",)}

_BUILD_LIMIT_S = 900


def missing(target: str = "qsfs") -> str | None:
    """Why the image cannot be built or run here, or None."""
    if reason := missing_docker():
        return reason
    if absent := [name for name in NEEDED[target] if _component(name) is None]:
        return f"neither in rootfs/components nor on PATH: {', '.join(absent)}"
    return None


def missing_docker() -> str | None:
    """Why nothing can be built here, or None."""
    if shutil.which("docker") is None:
        return "docker is not on PATH"
    if run("docker", "info").returncode:
        return "the docker daemon cannot be reached"
    if not _has_image(DEBIAN) and not _has_image(BASE) and not shutil.which("debootstrap"):
        pulled = run("docker", "pull", "--quiet", DEBIAN)
        if pulled.returncode:
            return f"{DEBIAN} cannot be pulled, and debootstrap is not on PATH"
    return None


def base_with(*packages: str) -> str:
    """The name of the base image with packages of Debian in it."""
    _base()
    name = f"hookd-test-base:{'-'.join(packages)}"
    install = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    with tempfile.TemporaryDirectory(prefix="hookd-base-") as folder:
        Path(folder, "Dockerfile").write_text(f"FROM {BASE}\nRUN {install}\n")
        _check(run("docker", "build", "--network", "host", "-t", name, folder))
    return name


def build(target: str = "qsfs", *, zstor: str | None = None) -> str:
    """The name of a freshly built image (layers that did not change are not made again).

    `zstor` names the program on PATH that becomes the image's zstor, instead of the usual one.
    """
    _base()
    name = f"hookd-test-{target}:{zstor or 'latest'}"
    with _programs(target, zstor):
        arguments = ["--build-arg", f"BASE={BASE}"]
        if os.environ.get("PIP_CERT"):
            arguments += ["--build-arg", f"PIP_CERT={CERTIFICATES}"]
        command = ["docker", "build", "--network", "host", "--target", target, "-t", name]
        built = subprocess.run(
            [*command, *arguments, str(REPOSITORY)],
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
            capture_output=True,
            text=True,
            timeout=_BUILD_LIMIT_S,
            check=False,
        )
    if built.returncode:
        raise RuntimeError(f"docker build failed:\n{built.stdout[-3000:]}\n{built.stderr[-2000:]}")
    return name


def _component(name: str) -> Path | None:
    given = COMPONENTS / name
    if given.is_file():
        return given
    found = next(filter(None, map(shutil.which, PROGRAMS[name])), None)
    return Path(found) if found else None


@contextlib.contextmanager
def _programs(target: str, zstor: str | None) -> Iterator[None]:
    """Fill rootfs/components for one build; what was put there is taken away again."""
    added, moved = [], None
    try:
        if zstor is not None:
            kept = COMPONENTS / "zstor"
            if kept.exists():
                moved = kept.rename(COMPONENTS / "zstor.kept")
            shutil.copy(str(shutil.which(zstor)), kept)
            added.append(kept)
        for name in NEEDED["qsfs"] + NEEDED[target]:
            source = _component(name)
            if source is not None and source.parent != COMPONENTS:
                shutil.copy(source, COMPONENTS / name)
                added.append(COMPONENTS / name)
        yield
    finally:
        for path in added:
            path.unlink(missing_ok=True)
        if moved is not None:
            moved.rename(COMPONENTS / "zstor")


def _base() -> None:
    if _has_image(BASE):
        return
    with tempfile.TemporaryDirectory(prefix="hookd-base-") as text:
        folder = Path(text)
        if not _has_image(DEBIAN) and run("docker", "pull", "--quiet", DEBIAN).returncode:
            root = folder / "root"
            _check(run("debootstrap", "--variant=minbase", "bookworm", str(root)))
            for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
                for path in (root / cache).iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            archive = folder / "root.tar"
            _check(run("tar", "-C", str(root), "-cf", str(archive), "."))
            _check(run("docker", "import", str(archive), "hookd-test-debian:bookworm"))
            origin = "hookd-test-debian:bookworm"
        else:
            origin = DEBIAN
        context = folder / "context"
        context.mkdir()
        lines = [f"FROM {origin}"]
        if certificates := os.environ.get("PIP_CERT"):
            shutil.copy(certificates, context / "ca.crt")
            lines.append(f"COPY ca.crt {CERTIFICATES}")
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        _check(run("docker", "build", "-t", BASE, str(context)))


def _has_image(name: str) -> bool:
    return run("docker", "image", "inspect", name).returncode == 0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of docker, with the older builder; its output is kept."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_LIMIT_S,
        env=environment,
    )


def _check(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise RuntimeError(f"{done.args}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "qsfs"
    if reason := missing(wanted):
        sys.exit(f"hookd: the image {wanted} cannot be built here: {reason}")
    if "--check" not in sys.argv:
        print(build(wanted))
