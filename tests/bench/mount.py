"""The mount: what hookd costs beside a plain `rclone mount` with the same flags, and its drain."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hookd.mount import endpoints
from tests.bench.harness import Line
from tests.mount.rig import USER, HookdMount, Server, missing, rclone

TURNS = 16
BIG_BYTES = 32 << 20
"""A turn."""
SMALL_FILES = 50
"""A turn."""
DRAINED_FILES = 1000
LEFT_FILES = 500
SMALL_BYTES = 4096
WITHIN_S = 120.0


class Plain:
    """`rclone mount` as hookd starts it, by hand."""

    def __init__(self, base: Path, server: Server, *, pacer: str = "1ms") -> None:
        self.point = base / "plain"
        self.cache = base / "plain-cache"
        self.config = base / "plain.conf"
        self.point.mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        program = rclone()
        assert program is not None
        self.program = program
        made = subprocess.run(
            [program, "obscure", "-"],
            input=server.password.encode(),
            capture_output=True,
            check=True,
        )
        self.config.write_text(
            f"[rshare]\ntype = webdav\nurl = {server.url}\nvendor = other\nuser = {USER}\n"
            f"pass = {made.stdout.decode().strip()}\npacer_min_sleep = {pacer}\n"
        )

    def start(self) -> float:
        """Seconds until it is mounted."""
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [
                self.program,
                "mount",
                f"--config={self.config}",
                f"--cache-dir={self.cache}",
                "--vfs-cache-mode=writes",
                "--vfs-write-back=3600s",
                "--vfs-cache-max-size=10Gi",
                "--transfers=4",
                "--allow-other",
                "rshare:/",
                str(self.point),
            ],
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # as hookd's: sessions share the processor among each other
        )
        _until(lambda: endpoints.top(self.point) is not None)
        return time.perf_counter() - began

    def stop(self, *, kill: bool = False) -> None:
        """End it; `kill` leaves its queue in the cache."""
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait()
        self._process = None
        while endpoints.top(self.point) is not None:
            endpoints.unmount(self.point, lazy=True)


def beside_rclone(base: Path, tools: Path) -> list[Line]:
    """All of the mount's lines, or one that says why not."""
    if why := missing():
        return [Line("hookd mount", "not run", "", None, why)]
    server = Server(base / "remote", dir_cache_s=3600)
    server.start()
    plain = Plain(base, server)
    mount = HookdMount(base, server, write_back_s=3600, probe_interval_s=10)
    try:
        return [
            *_throughput(plain, mount),
            _drain(base, server, mount),
            _ready(plain, mount),
            *_restart(base, server, plain, mount),
        ]
    finally:
        plain.stop()
        mount.close()
        server.stop()


def _throughput(plain: Plain, mount: HookdMount) -> list[Line]:
    """In short turns, now one first and now the other, the best of each: what else the machine does
    takes time from every turn and adds to none."""
    found: dict[str, list[float]] = {"big": [], "big plain": [], "small": [], "small plain": []}
    plain.start()
    mount.start()
    content = os.urandom(1 << 20)
    both = ((" plain", plain.point), ("", mount.point))
    for number in range(TURNS):
        for suffix, point in both if number % 2 else reversed(both):
            began = time.perf_counter()
            with (point / f"big{number}{suffix}").open("wb") as file:
                for _ in range(BIG_BYTES >> 20):
                    file.write(content)
            found[f"big{suffix}"].append(BIG_BYTES / 1e6 / (time.perf_counter() - began))
            began = time.perf_counter()
            for each in range(SMALL_FILES):
                (point / f"small{number}-{each}{suffix}").write_bytes(content[:SMALL_BYTES])
            found[f"small{suffix}"].append(SMALL_FILES / (time.perf_counter() - began))
    lines = []
    for kind, unit in (("big", "MB/s"), ("small", "files/s")):
        ours, theirs = max(found[kind]), max(found[f"{kind} plain"])
        what = "mount, sequential" if kind == "big" else "mount, small files"
        lines.append(
            _line(
                f"{what}, × rclone mount",
                ours / theirs,
                0.95,
                f"{ours:.0f} against {theirs:.0f} {unit}",
            )
        )
    for point in (plain.point, mount.point):
        for path in point.iterdir():
            path.unlink()
    plain.stop()
    _stopped(mount)
    return lines


def _drain(base: Path, server: Server, mount: HookdMount) -> Line:
    """SIGTERM to exit 0 with 1,000 files waiting, against `rclone copy` of them."""
    source = base / "source"
    source.mkdir()
    for number in range(DRAINED_FILES):
        (source / f"c{number}").write_bytes(os.urandom(SMALL_BYTES))
    program = rclone()
    assert program is not None
    began = time.perf_counter()
    subprocess.run(
        [
            program,
            "copy",
            f"--config={base / 'plain.conf'}",
            "--transfers=4",
            str(source),
            "rshare:/copied",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    copy_s = time.perf_counter() - began
    mount.start()
    mount.write(DRAINED_FILES, size=SMALL_BYTES)
    began = time.perf_counter()
    _stopped(mount)
    drain_s = time.perf_counter() - began
    if len(server.files()) < 2 * DRAINED_FILES:
        raise SystemExit("bench: the drain left files behind")
    server.stop()  # it knows what it served; a long listing is not what comes next
    for path in server.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    server.start()
    detail = f"{drain_s:.1f} s against {copy_s:.1f} s"
    return _line("mount, drain of 1,000 files, × rclone copy", copy_s / drain_s, 0.9, detail)


def _ready(plain: Plain, mount: HookdMount) -> Line:
    """From start to ready, all checks and the probe included, less what rclone alone takes."""
    ours, theirs = [], []
    for _ in range(5):
        theirs.append(plain.start())
        plain.stop()
        began = time.perf_counter()
        mount.start()
        ours.append(time.perf_counter() - began)
        _stopped(mount)
    more = sorted(ours)[2] - sorted(theirs)[2]
    detail = f"{sorted(ours)[2]:.2f} s against {sorted(theirs)[2]:.2f} s"
    return Line("mount, ready after rclone itself", f"{more:.2f} s", "≤ 0.5 s", more <= 0.5, detail)


def _restart(base: Path, server: Server, plain: Plain, mount: HookdMount) -> list[Line]:
    """500 files left in the cache by a kill: how long until ready."""

    def left() -> None:
        mount.start()
        mount.write(LEFT_FILES, size=SMALL_BYTES, prefix="left")
        mount.kill()
        mount.kill_rclone()

    def restarted() -> float:
        began, before = time.perf_counter(), mount.log.stat().st_size
        mount.start(wait=False)
        mount.wait_for_line("hookd mount is ready", after=before, within_s=WITHIN_S)
        return time.perf_counter() - began

    plain.start()
    for number in range(LEFT_FILES):
        (plain.point / f"plain{number}").write_bytes(os.urandom(SMALL_BYTES))
    plain.stop(kill=True)
    tuned_s = plain.start()
    plain.stop(kill=True)
    default = Plain(base, server, pacer="10ms")
    default_s = default.start()
    default.stop(kill=True)
    left()
    first_s = restarted()
    _stopped(mount)
    mount.settings["resume"] = "behind"
    left()
    behind_s = restarted()
    _stopped(mount)
    what = "mount, 500 left: ready"
    return [
        Line(
            f"{what}, all uploaded",
            f"{first_s:.1f} s",
            f"≤ {default_s:.1f} s",
            first_s <= default_s,
            "the goal: rclone's own, as it comes",
        ),
        Line(
            f"{what}, uploading behind",
            f"{behind_s:.1f} s",
            f"≤ {tuned_s + 0.5:.1f} s",
            behind_s <= tuned_s + 0.5,
            "the goal: rclone's own with hookd's pace, and 0.5 s",
        ),
    ]


def _line(what: str, ratio: float, goal: float, detail: str) -> Line:
    return Line(what, f"{ratio:.2f}", f"≥ {goal:g}", ratio >= goal, detail)


def _stopped(mount: HookdMount) -> None:
    if mount.stop(within_s=WITHIN_S) != 0:
        raise SystemExit(f"bench: hookd mount left files: {mount.log.read_text()[-2000:]}")


def _until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + WITHIN_S
    while not holds():
        if time.monotonic() > ends:
            raise SystemExit("bench: rclone did not mount")
        time.sleep(0.002)
