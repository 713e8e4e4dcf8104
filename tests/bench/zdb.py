"""What the hook costs a real zdb: throughput and stalls with and without it.

zdb forks itself for every hook, whatever the hook is; `/bin/true` in its place shows how much that is.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path

from tests.bench.harness import Daemon, Line, running, shim

VALUE_BYTES = 128 * 1024
VALUES = 3000
DATASIZE = 16 << 20
ROUNDS = 3
TRUE = Path("/bin/true")


def with_hook(base: Path, tools: Path) -> list[Line]:
    """SETs of 128 KiB into 16 MiB data files, one client, in turn without, with true, with the hook."""
    if shutil.which("zdb") is None:
        return [Line("zdb with the hook", "not run", "≥ 0.95", None, "no zdb on PATH")]
    plain: list[tuple[float, float]] = []
    forked: list[tuple[float, float]] = []
    hooked: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        plain.append(_run(base / f"plain{number}"))
        forked.append(_run(base / f"forked{number}", hook=TRUE))
        daemon = Daemon(base / f"hooked{number}", paused=True)
        with running(daemon):
            environment = daemon.environment
            hooked.append(_run(base / f"hooked{number}", hook=shim(), environment=environment))
        for name in ("plain", "forked", "hooked"):
            shutil.rmtree(base / f"{name}{number}")
    every = (hooked, forked, plain)
    rate, rate1, rate0 = (statistics.median(r for r, _ in runs) for runs in every)
    stall, stall1, stall0 = (statistics.median(s for _, s in runs) for runs in every)
    return [
        Line(
            "zdb throughput with /bin/true as hook, × without",
            f"{rate1 / rate0:.2f}",
            "reference",
            None,
            f"{rate1 / 1e6:.0f} MB/s: what zdb's own fork costs",
        ),
        Line(
            "zdb throughput with the hook, × without",
            f"{rate / rate0:.2f}",
            "≥ 0.95",
            rate / rate0 >= 0.95,
            f"{rate / 1e6:.0f} MB/s against {rate0 / 1e6:.0f} MB/s",
        ),
        Line(
            "zdb p99.9 of a SET with /bin/true as hook, × without",
            f"{stall1 / stall0:.2f}",
            "reference",
            None,
            f"{stall1 * 1e3:.2f} ms",
        ),
        Line(
            "zdb p99.9 of a SET with the hook, × without",
            f"{stall / stall0:.2f}",
            "≤ 2",
            stall / stall0 <= 2,
            f"{stall * 1e3:.2f} ms against {stall0 * 1e3:.2f} ms",
        ),
    ]


def _run(
    base: Path, *, hook: Path | None = None, environment: dict[str, str] | None = None
) -> tuple[float, float]:
    """(bytes a second, p99.9 of a SET in seconds) of one fresh zdb that calls `hook`."""
    base.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["zdb", "--index", str(base / "index"), "--data", str(base / "data")]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--datasize", str(DATASIZE)]
    if hook is not None:
        command += ["--hook", str(hook)]
    log = (base / "zdb.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment or dict(os.environ))
    try:
        return _write(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        log.close()


def _write(port: int) -> tuple[float, float]:
    client = _connect(port)
    value = os.urandom(VALUE_BYTES)
    took: list[float] = []
    began = time.perf_counter()
    with client:
        for number in range(VALUES):
            key = f"key-{number:08d}".encode()
            command = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, len(value))
            started = time.perf_counter()
            client.sendall(command + value + b"\r\n")
            answer = client.recv(256)
            took.append(time.perf_counter() - started)
            if not answer.startswith((b"+", b"$")):
                raise SystemExit(f"bench: zdb answered {answer!r}")
    seconds = time.perf_counter() - began
    took.sort()
    return VALUES * VALUE_BYTES / seconds, took[VALUES * 999 // 1000]


def _connect(port: int) -> socket.socket:
    until = time.monotonic() + 10
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return client
        except OSError:
            if time.monotonic() > until:
                raise SystemExit("bench: zdb did not start") from None
            time.sleep(0.02)
