"""What a hook costs zdb: the shim's whole process, durable events a second, and a long queue."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from pathlib import Path

from hookd.files import data_key
from hookd.journal import EventRow, Job, Outcome, connect, tables
from tests.bench.harness import Daemon, Line, compiled, load, running, shim

RUNS = 3000
EVENTS = 20_000
CONNECTIONS = 64
ROUND = 4000


def shim_process(base: Path, tools: Path) -> list[Line]:
    """The shim with its fsynced answer against /bin/true, alternating."""
    with running(Daemon(base, paused=True)) as daemon:
        folder = daemon.data / "ns"
        folder.mkdir()
        for number in range(RUNS):
            (folder / f"d{number}").touch()
        out = subprocess.run(
            [
                *(compiled("spawn", tools), str(RUNS), "--", "/bin/true"),
                *("--", str(shim()), "jump-data", "tcp://127.0.0.1:1"),
                *(f"{folder}/d@", f"{folder}/d"),
            ],
            check=True,
            capture_output=True,
            env=daemon.environment,
        )
    true, ours = json.loads(out.stdout)
    lines = []
    for name, goal in (("p50", 2.0), ("p999", 5.0)):
        ratio = ours[f"{name}_us"] / true[f"{name}_us"]
        shown = name.replace("999", "99.9")
        detail = f"{ours[f'{name}_us']:.0f} µs against {true[f'{name}_us']:.0f} µs"
        lines.append(
            Line(
                f"shim, {shown}, × /bin/true", f"{ratio:.2f}", f"≤ {goal:g}", ratio <= goal, detail
            )
        )
    return lines


def throughput(base: Path, tools: Path) -> list[Line]:
    """Durable events a second from 64 connections."""
    with running(Daemon(base, paused=True)) as daemon:
        load(daemon, tools, threads=CONNECTIONS, events=2000, name="warm")
        before = daemon.cpu_s()
        found = load(daemon, tools, threads=CONNECTIONS, events=EVENTS, name="ns")
        cpu_us = (daemon.cpu_s() - before) / EVENTS * 1e6
    rate = EVENTS / found["seconds"]
    detail = f"p99 {found['p99_us'] / 1000:.1f} ms; {cpu_us:.0f} µs of daemon CPU an event"
    return [Line("durable events a second", f"{rate:,.0f}", "≥ 5,000", rate >= 5000, detail)]


def long_queue(base: Path, tools: Path) -> list[Line]:
    """The cost of an event with a thousand and with a million queued; start and memory at 100,000."""
    costs: dict[int, float] = {}
    lines: list[Line] = []
    for queued in (1_000, 100_000, 1_000_000):
        daemon = Daemon(base / str(queued), paused=True)
        _fill(daemon, queued)
        try:
            start_s = daemon.start()
            if queued == 100_000:
                held = start_s <= 3
                lines.append(Line("start with 100,000 queued", f"{start_s:.2f} s", "≤ 3 s", held))
                rss = daemon.rss_mb()
                lines.append(
                    Line("memory with 100,000 queued", f"{rss:.0f} MB", "≤ 150 MB", rss <= 150)
                )
            time.sleep(1.0)
            best = float("inf")
            for number in range(5):
                found = load(
                    daemon, tools, threads=CONNECTIONS, events=ROUND, name=f"round{number}"
                )
                best = min(best, found["seconds"] / ROUND)
            costs[queued] = best
        finally:
            daemon.kill()
    ratio = costs[1_000_000] / costs[1_000]
    detail = ", ".join(f"{queued:,}: {cost * 1e6:.0f} µs" for queued, cost in costs.items())
    lines.append(
        Line(
            "an event at 1,000,000 queued, × at 1,000",
            f"{ratio:.2f}",
            "≤ 1.3",
            ratio <= 1.3,
            detail,
        )
    )
    return lines


def _fill(daemon: Daemon, count: int) -> None:
    """A journal with `count` open events, as a long outage leaves it."""
    db: sqlite3.Connection = connect(daemon.journal)
    now = time.time() - 90_000  # older than the ids that are remembered
    db.execute("BEGIN")
    for first in range(0, count, 10_000):
        events, jobs = [], []
        for number in range(first, min(first + 10_000, count)):
            path = f"{daemon.data}/old/d{number}"
            argv = ("jump-data", "tcp://127.0.0.1:1", path, path)
            row = EventRow(
                event_id=number.to_bytes(16, "big"),
                argv=argv,
                cwd="/",
                received_at=now,
                origin="socket",
                outcome=Outcome.ACCEPTED,
                answer=0,
            )
            events.append(tables.event_values(number + 1, row))
            job = Job(
                key=data_key("old", number),
                id=number + 1,
                turn=number + 1,
                event=number + 1,
                since=now,
                sealed=True,
            )
            jobs.append(tables.job_values(job, now))
        tables.insert(db, events, jobs)
    db.execute("COMMIT")
    db.close()
