"""The view of a mount as metrics for Prometheus. Apart from `view` for what its library costs to import:
a mount is ready sooner without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hookd.mount.state import Phase
from hookd.mount.view import View


class _Collector(Collector):
    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        found = self._look()
        levels = ("ok", "degraded", "failing")
        yield _states("hookd_mount_phase", "phase", [p.value for p in Phase], found["phase"])
        yield _states("hookd_mount_health", "status", levels, found["health"]["status"])
        for name, text, value in _figures(found):
            yield GaugeMetricFamily(f"hookd_mount_{name}", text, value=float(value))


def _figures(found: View) -> Iterator[tuple[str, str, float]]:
    uploads, dirty, cache = found["uploads"], found["dirty"], found["cache"]
    yield "ready", "1 while the mount is ready.", found["ready"]
    yield "up", "0 while the mount does not answer.", not found["mount"]["error"]
    yield (
        "remote_up",
        "0 while the remote does not answer or refuses.",
        not found["remote"]["error"],
    )
    yield "remounts", "Mounters replaced since the start.", found["mount"]["remounts"]
    yield "queue_files", "Closed files that wait for their upload.", uploads["files"]
    yield "queue_bytes", "Their bytes.", uploads["bytes"]
    yield "uploads_in_progress", "Files on their way.", uploads["in_progress"]
    yield "uploads_failing", "Files whose upload failed and is tried again.", uploads["failing"]
    yield "dirty_files", "Files that the remote does not have, open ones too.", dirty["files"]
    yield "dirty_bytes", "Their bytes.", dirty["bytes"]
    yield "oldest_dirty_age_seconds", "Age of the oldest; 0 with none.", dirty["oldest_age_s"] or 0
    yield "cache_bytes", "Bytes in the cache.", cache["bytes"]
    if cache["free_bytes"] is not None:
        yield "cache_free_bytes", "Room on the cache's disk.", cache["free_bytes"]


def _states(name: str, label: str, states: Iterable[str], current: str) -> Metric:
    family = GaugeMetricFamily(name, f"1 for the {label} it is in.", labels=[label])
    for state in states:
        family.add_metric([state], float(state == current))
    return family


def registry(look: Callable[[], View]) -> CollectorRegistry:
    """The mount's own metrics, and the process's."""
    found = CollectorRegistry()
    found.register(_Collector(look))
    ProcessCollector(registry=found)
    return found
