"""The metrics: what a scrape says, and that the reference names each of them."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hookd.admin.metrics import render
from hookd.admin.view import LedgerAnswer, view
from hookd.drain import Progress
from hookd.journal.records import JobState
from hookd.parts import Parts
from hookd.recovery_point import RecoveryPoint, SpacePoint
from tests.fakes.parts import add_job, fake_parts

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


POINT = RecoveryPoint(
    looked_at=1_700_000_100.0,
    spaces={
        "ns": SpacePoint(until=1_700_000_000.0, files=2, bytes=300, active_dirty=True),
        "clean": SpacePoint(until=1_700_000_100.0, files=0, bytes=0, active_dirty=False),
    },
)


def scrape(parts: Parts, **options: Any) -> dict[tuple[str, ...], float]:
    """(name, label values…) → value, as Prometheus reads it."""
    text = render(view(parts, **options))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def busy() -> Parts:
    """A daemon for which every metric is there."""
    parts = fake_parts()
    add_job(parts, "data/ns/d1", size_bytes=100, age_s=50)
    add_job(parts, "data/ns/d2", size_bytes=10, state=JobState.QUARANTINED)
    counts, tally = parts.dispatcher.counts, parts.admission.tally
    counts.settled_files, counts.settled_bytes = 7, 700
    counts.errors["unreachable"] = 3
    tally.by_hook.update({"jump-data": 4, "no\nhook": 1, "other": 2})
    tally.refused = 2
    parts.dispatcher.store_state.last_success = 1_700_000_000.0
    parts.retriever.failed = 1
    parts.held["ns"] = "i3 is gone"
    parts.auditor.complete_at = 1_700_000_000.0
    restarts = {"done": 1, "failed": 0}
    look = {"state": "blind", "advice": "restart zstor", "restarts": restarts}
    parts.blind = SimpleNamespace(view=lambda: look)  # type: ignore[assignment]
    progress = Progress("storing", 3, 300, 1, 100, 2.0)
    parts.drain = SimpleNamespace(progress=progress)  # type: ignore[assignment]
    return parts


def test_values() -> None:
    """They are those of the view, in base units."""
    found = scrape(busy(), zdb_alive=True, ledger=LedgerAnswer(9, 900))
    expected = {
        ("hookd_queue_files", "pending"): 1,
        ("hookd_queue_files", "blocked"): 0,
        ("hookd_queue_bytes", "quarantined"): 10,
        ("hookd_settled_files_total",): 7,
        ("hookd_settled_bytes_total",): 700,
        ("hookd_store_up",): 1,
        ("hookd_store_errors_total", "unreachable"): 3,
        ("hookd_store_last_success_time_seconds",): 1_700_000_000,
        ("hookd_events_total", "jump-data"): 4,
        ("hookd_events_total", "ready"): 0,
        ("hookd_events_refused_total",): 2,
        ("hookd_retrieves_total", "failed"): 1,
        ("hookd_namespaces_held",): 1,
        ("hookd_ledger_files",): 9,
        ("hookd_health", "degraded"): 1,
        ("hookd_health", "ok"): 0,
        ("hookd_phase", "running"): 1,
        ("hookd_zdb_up",): 1,
        ("hookd_drain_files_left",): 3,
        ("hookd_drain_eta_seconds",): 6,
        ("hookd_staging_limit_bytes",): 1 << 32,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found[("hookd_oldest_pending_age_seconds",)] == pytest.approx(50, abs=1)


def test_hooks_from_outside_make_no_series() -> None:
    """Whoever may call the socket chooses their names."""
    found = scrape(busy())
    assert found[("hookd_events_total", "other")] == 3
    assert sum(key[0] == "hookd_events_total" for key in found) == 13


def test_what_is_not_known_is_absent() -> None:
    """Rather than a 0 that means something else."""
    names = {key[0] for key in scrape(fake_parts())}
    for name in ("zdb_up", "ledger_files", "drain_files_left", "store_last_success_time_seconds"):
        assert f"hookd_{name}" not in names


def test_what_would_be_lost() -> None:
    """Ages count from now; what is whole has none."""
    parts = busy()
    parts.checkpoints.taken, parts.checkpoints.failed = 5, 2
    found = scrape(parts, point=POINT)
    age_s = time.time() - 1_700_000_000
    assert found[("hookd_recovery_point_time_seconds",)] == 1_700_000_000
    assert found[("hookd_recovery_point_age_seconds",)] == pytest.approx(age_s, abs=5)
    by_name = "hookd_namespace_recovery_point_age_seconds"
    assert found[(by_name, "ns")] == pytest.approx(age_s, abs=5)
    assert found[(by_name, "clean")] == 0
    assert (found[("hookd_local_only_files",)], found[("hookd_local_only_bytes",)]) == (2, 300)
    assert found[("hookd_checkpoints_total", "safe")] == 3
    assert found[("hookd_checkpoints_total", "failed")] == 2
    assert found[("hookd_checkpoint_put_off",)] == 0


def test_store_that_is_down() -> None:
    """Unknown counts as up: nothing has failed."""
    parts = fake_parts()
    assert scrape(parts)[("hookd_store_up",)] == 1
    parts.dispatcher.store_state.down_since = time.time()
    assert scrape(parts)[("hookd_store_up",)] == 0


def test_reference_names_every_metric() -> None:
    """docs/reference/metrics.md is complete for `hookd serve`, and names nothing else of it."""
    found = scrape(busy(), zdb_alive=True, ledger=LedgerAnswer(9, 900), point=POINT)
    exported = {key[0] for key in found}
    named = set(re.findall(r"`((?:hookd|process)_[a-z_]+)(?:\{[^`]*)?`", REFERENCE.read_text()))
    # those of `hookd mount` come from another program
    assert {name for name in named if not name.startswith("hookd_mount_")} == exported
