"""One QSFS container for a test: run, written to, broken, stopped; its log and its exit code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WITHIN_S = 60.0
NAMES = ("qsfs", "zinit", "zstor", "hookd", "zdb", "ns", "fs")
"""What a log line may begin with."""


class Docker:
    """What a test makes with docker, and takes away at its end."""

    def __init__(self, image: str) -> None:
        self.image = image
        self._containers: list[Container] = []
        self._volumes: list[str] = []

    def volume(self) -> str:
        """A new, empty volume."""
        name = f"hookd-test-{uuid.uuid4().hex[:12]}"
        docker("volume", "create", name)
        self._volumes.append(name)
        return name

    def container(
        self,
        *arguments: str,
        rights: bool = True,
        network: str = "host",
        mountpoint: str = "/mnt",
        command: Sequence[str] = (),
    ) -> Container:
        """Made, not started; `arguments` of `docker create`, `command` for the entrypoint."""
        allowed = ["--device", "/dev/fuse", "--cap-add", "SYS_ADMIN"] if rights else []
        if rights and apparmor():
            allowed += ["--security-opt", "apparmor=unconfined"]
        name = f"hookd-test-{uuid.uuid4().hex[:12]}"
        options = ["--name", name, "--network", network, "-e", f"QSFS_MOUNTPOINT={mountpoint}"]
        docker("create", *options, *allowed, *arguments, self.image, *command)
        made = Container(name, mountpoint=mountpoint)
        self._containers.append(made)
        return made

    def close(self) -> None:
        """Remove everything."""
        for container in self._containers:
            docker("rm", "--force", "--volumes", container.name, check=False)
        for volume in self._volumes:
            docker("volume", "rm", "--force", volume, check=False)


class Container:
    """A container by its name."""

    def __init__(self, name: str, *, mountpoint: str = "/mnt") -> None:
        self.name = name
        self.mountpoint = mountpoint

    def start(self, *, mounted: bool = True) -> Container:
        """Start it, and wait until the file system is mounted."""
        docker("start", self.name)
        if mounted:
            self.until_mounted()
        return self

    def until_mounted(self, within_s: float = WITHIN_S) -> None:
        """Wait until a file in the mount can be looked for."""
        point = self.mountpoint
        # In this order: a dead mount may be cleared in between, and the guard below it can be listed.
        script = f"timeout 5 ls {point} && grep -q ' {point} fuse' /proc/mounts"
        self.until(lambda: self.run(script, check=False) == 0, "mounted", within_s)

    def until(self, happens: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
        """Wait; a container that ended meanwhile is shown with its log."""
        ends = time.monotonic() + within_s
        while not happens():
            if time.monotonic() > ends or not self.state()["Running"]:
                raise TimeoutError(f"not within {within_s:g} s: {what}\n{self.log()[-6000:]}")
            time.sleep(0.1)

    def until_log(self, text: str, within_s: float = WITHIN_S, *, times: int = 1) -> None:
        """Wait for `text` in the log."""
        self.until(lambda: self.log().count(text) >= times, f"{text!r} in the log", within_s)

    # -- inside --------------------------------------------------------------------------------------

    def run(self, script: str, *, check: bool = True) -> int:
        """Exit code of a shell script in it."""
        done = docker("exec", self.name, "sh", "-c", script, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{script}: {done.stdout}{done.stderr}\n{self.log()[-6000:]}")
        return done.returncode

    def output(self, script: str) -> str:
        """What a shell script in it prints."""
        return docker("exec", self.name, "sh", "-c", script).stdout

    def write(self, path: str, content: bytes) -> None:
        """A file, through the mount."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.name, "sh", "-c", f"cat > {path}"],
            input=content,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{path}: {done.stderr.decode()}")

    def hashes(self) -> dict[str, str]:
        """Name → SHA-256 of every file in the mount."""
        lines = self.output(
            f"cd {self.mountpoint} && find . -type f -exec sha256sum {{}} +"
        ).splitlines()
        return {line[66:]: line[:64] for line in lines}

    def stats(self) -> dict[str, Any]:
        """`hookd status --json`."""
        done = docker("exec", self.name, "hookd", "status", "--json", check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def idle(self, within_s: float = WITHIN_S) -> None:
        """Wait until nothing is owed to the store."""
        self.until(lambda: self.stats()["queue"]["files"] == 0, "an empty queue", within_s)

    def kill_service(self, program: str, signal: str = "KILL") -> None:
        """Send a signal to the processes of a program (by the start of their command line)."""
        script = (
            "for p in /proc/[0-9]*; do"
            f" case $(tr '\\0' ' ' <$p/cmdline 2>&-) in '{program}'*) kill -{signal} ${{p#/proc/}};;"
            " esac; done"
        )
        self.run(script)

    def kill_hookd(self) -> None:
        """SIGKILL to the daemon alone."""
        self.run("kill -KILL $(cat /run/hookd/stats.sock.lock)")

    # -- outside -------------------------------------------------------------------------------------

    def stop(self, seconds: int = 120) -> int:
        """`docker stop`; its exit code."""
        docker("stop", "--time", str(seconds), self.name, limit_s=seconds + 60)
        return int(self.state()["ExitCode"])

    def signal(self, name: str = "TERM") -> None:
        """To PID 1."""
        docker("kill", "--signal", name, self.name)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        docker("kill", self.name)
        docker("wait", self.name)

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Until it ends by itself; its exit code."""
        return int(docker("wait", self.name, limit_s=within_s).stdout)

    def state(self) -> dict[str, Any]:
        """As docker inspect says."""
        text = docker("inspect", "--format", "{{json .State}}", self.name).stdout
        found: dict[str, Any] = json.loads(text)
        return found

    def log(self) -> str:
        """Everything on its stdout and stderr, in order."""
        done = subprocess.run(
            ["docker", "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=True,
        )
        return done.stdout.decode("utf-8", "replace")

    def unnamed(self) -> list[str]:
        """Log lines that do not say whose they are."""
        return [line for line in self.log().splitlines() if line.partition(": ")[0] not in NAMES]


def docker(
    *arguments: str, check: bool = True, limit_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run the client. Raises RuntimeError with what it said."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit_s,
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done


def apparmor() -> bool:
    """Whether docker confines containers with AppArmor."""
    return "name=apparmor" in docker("info", "--format", "{{.SecurityOptions}}").stdout


def digest(content: bytes) -> str:
    """As `Container.hashes` gives it."""
    return hashlib.sha256(content).hexdigest()


class Content:
    """Random files and what their hashes have to be."""

    def __init__(self) -> None:
        self.expected: dict[str, str] = {}

    def put(self, container: Container, name: str, size: int) -> None:
        """One file of `size` random bytes; expected only once the write is through."""
        content = os.urandom(size)
        container.write(f"{container.mountpoint}/{name}", content)
        self.expected[f"./{name}"] = digest(content)


def detach(path: Path) -> None:
    """Take away a mount on the host, if there is one."""
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False, timeout=20)
