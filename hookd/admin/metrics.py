"""Stage metrics: a view as Prometheus metrics.

Pure: a collector yields what the view it gets says. The names are the contract of
docs/reference/metrics.md: base units, `_total` for what only grows until the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hookd.event import HOOKS

View = dict[str, Any]

PHASES = ("running", "draining", "stopping")

ALARMS = (
    "lost",
    "differs",
    "store-differs",
    "foreign",
    "rotten",
    "empty-index",
    "damaged-index",
    "gap",
    "truncated",
    "short-in-store",
)
"""Problems that are alarms (hookd.audit.finding.Problem)."""

OTHER_HOOK = "other"
"""The label of every hook that is not zdb's own: names from outside must not make series."""


class ViewCollector(Collector):
    """Metrics of the view that `look` returns, asked for at each scrape."""

    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """One scrape. Raises what `look` raises."""
        view = self._look()
        families = (_daemon, _queue, _totals, _store, _folders, _recovery, _safety, _audit, _drain)
        for family in families:
            yield from family(view)


def registry(look: Callable[[], View]) -> CollectorRegistry:
    """hookd's own metrics, and the process's."""
    found = CollectorRegistry()
    found.register(ViewCollector(look))
    ProcessCollector(registry=found)
    return found


def render(view: View) -> str:
    """The text of one scrape."""
    return generate_latest(registry(lambda: view)).decode()


def _daemon(view: View) -> Iterator[Metric]:
    yield _gauge("hookd_build_info", "Always 1; the version.", 1, {"version": view["version"]})
    yield _states("hookd_phase", "1 for the phase it is in.", "phase", PHASES, view["phase"])
    status = view["health"]["status"]
    levels = ("ok", "degraded", "failing")
    yield _states("hookd_health", "1 for the status it is in.", "status", levels, status)
    yield _gauge("hookd_paused", "1 while storing is paused.", view["paused"])
    running = view["zdb"]["running"]
    if running is not None:
        yield _gauge("hookd_zdb_up", "1 if zdb runs, as far as can be seen.", running)


def _queue(view: View) -> Iterator[Metric]:
    queue = view["queue"]
    files = _family("hookd_queue_files", "Files not stored yet.", "state")
    size = _family("hookd_queue_bytes", "Bytes not stored yet.", "state")
    for state, amount in queue["states"].items():
        files.add_metric([state], amount["files"])
        size.add_metric([state], amount["bytes"])
    yield files
    yield size
    yield _gauge(
        "hookd_oldest_pending_age_seconds",
        "Age of the oldest content not stored, quarantined files left out; 0 with none.",
        queue["oldest_age_s"] or 0.0,
    )


def _totals(view: View) -> Iterator[Metric]:
    totals = view["totals"]
    yield _counter("hookd_settled_files", "Files stored and verified.", totals["settled_files"])
    yield _counter("hookd_settled_bytes", "Bytes stored and verified.", totals["settled_bytes"])
    yield _counter(
        "hookd_already_stored_files",
        "Files of those settled that the store had already.",
        totals["already_there"],
    )
    yield _counter(
        "hookd_superseded_files",
        "Snapshots whose place a newer one of the same file took.",
        totals["superseded"],
    )
    yield from _events(totals["events"])


def _events(events: View) -> Iterator[Metric]:
    hooks = dict.fromkeys((*HOOKS, OTHER_HOOK), 0)
    for name, amount in events["by_hook"].items():
        hooks[name if name in hooks else OTHER_HOOK] += amount
    yield _counters("hookd_events", "Events that came in.", "hook", hooks)
    for key, text in (
        ("duplicate", "Events that came again and were answered as before."),
        ("refused", "Events refused: a path outside the roots, or malformed."),
        ("unknown", "Events of hooks that this version does not know."),
        ("held", "Events of held namespaces: kept, not acted on."),
        ("deferred", "Events whose files could not be frozen at once."),
    ):
        yield _counter(f"hookd_events_{key}", text, events[key])


def _store(view: View) -> Iterator[Metric]:
    store = view["store"]
    yield _gauge("hookd_store_up", "0 while the store is down.", store["state"] != "down")
    if store["last_success"] is not None:
        text = "When a file was last stored, Unix time."
        yield _gauge("hookd_store_last_success_time_seconds", text, store["last_success"])
    if (blind := store["blind"]) is not None:
        text = "1 while zstor does not see its metadata backends, though hookd reaches them."
        yield _gauge("hookd_zstor_blind", text, blind["state"] == "blind")
        text = "Runs of store.zstor.restart_command."
        yield _counters("hookd_zstor_restarts", text, "outcome", blind["restarts"])
    errors = {name: error["count"] for name, error in view["errors"].items()}
    yield _counters("hookd_store_errors", "Failed tries to store a file.", "class", errors)


def _folders(view: View) -> Iterator[Metric]:
    staging, spool, journal = view["staging"], view["spool"], view["journal"]
    yield _gauge("hookd_staging_bytes", "What the snapshots take.", staging["bytes"])
    if staging["max_bytes"] is not None:
        yield _gauge("hookd_staging_limit_bytes", "Most they may take.", staging["max_bytes"])
    room = view["room"]
    if room["free_bytes"] is not None:
        yield _gauge("hookd_disk_free_bytes", "Free on zdb's disks.", room["free_bytes"])
    text = "1 while zdb takes no writes, for the disk is nearly full."
    yield _gauge("hookd_disk_nearly_full", text, room["shut"])
    yield _gauge("hookd_spool_files", "Events waiting in the spool.", spool["waiting"])
    yield _gauge("hookd_spool_bad_files", "Spool files that are no event.", spool["bad"])
    yield _counter("hookd_spool_taken_files", "Events taken from the spool.", spool["taken"])
    yield _gauge("hookd_journal_up", "1 while it can be written.", journal["state"] == "ok")
    if (ledger := view["ledger"]) is not None:
        yield _gauge("hookd_ledger_files", "Files proven to be in the store.", ledger["files"])
        yield _gauge("hookd_ledger_bytes", "Bytes proven to be in the store.", ledger["bytes"])


def _recovery(view: View) -> Iterator[Metric]:
    yield _gauge(
        "hookd_fenced",
        "1 while another frontend has the store.",
        view["fence"]["fenced"] is not None,
    )
    waits = view["restore"]["waiting"] is not None
    yield _gauge("hookd_restore_waiting", "1 while zdb waits for the store to restore from.", waits)
    yield _gauge("hookd_namespaces_held", "Namespaces that take no stores.", len(view["held"]))
    retrieve = view["retrieve"]
    outcomes = {"done": retrieve["done"], "failed": retrieve["failed"]}
    text = "Data files that zdb asked back."
    yield _counters("hookd_retrieves", text, "outcome", outcomes)


def _safety(view: View) -> Iterator[Metric]:
    """How much the loss of this machine would cost, and the checkpoints that bound it."""
    if (point := view["recovery"]) is not None:
        if point["until"] is not None:
            yield _gauge(
                "hookd_recovery_point_time_seconds",
                "Everything written before is in the store; Unix time.",
                point["until"],
            )
            yield _gauge(
                "hookd_recovery_point_age_seconds",
                "Seconds whose writes are not all in the store; 0 if all is.",
                point["age_s"],
            )
        yield _gauge(
            "hookd_local_only_files", "Files not in the store as they are.", point["files"]
        )
        yield _gauge("hookd_local_only_bytes", "Bytes not in the store.", point["bytes"])
        ages = _family("hookd_namespace_recovery_point_age_seconds", "The same.", "namespace")
        for name, space in point["namespaces"].items():
            if space["age_s"] is not None:
                ages.add_metric([name], space["age_s"])
        yield ages
    made = view["checkpoint"]
    outcomes = {"safe": made["taken"] - made["failed"], "failed": made["failed"]}
    yield _counters("hookd_checkpoints", "Checkpoints that ended.", "outcome", outcomes)
    put_off = made["put_off"] is not None
    yield _gauge("hookd_checkpoint_put_off", "1 while one that is due has to wait.", put_off)


def _audit(view: View) -> Iterator[Metric]:
    audit = view["audit"]
    alarms = dict.fromkeys(ALARMS, 0) | audit["problems"]
    family = _family("hookd_audit_alarms", "Files that are not what they should be.", "problem")
    for problem, amount in alarms.items():
        family.add_metric([problem], amount)
    yield family
    yield _gauge("hookd_audit_running", "1 while an audit runs.", audit["running"] is not None)
    yield _counters("hookd_audits", "Audits that ended.", "outcome", audit["runs"])
    if audit["complete_at"] is not None:
        text = "When an audit last looked at everything, Unix time."
        yield _gauge("hookd_audit_last_complete_time_seconds", text, audit["complete_at"])


def _drain(view: View) -> Iterator[Metric]:
    """Absent unless a drain has begun."""
    if (drain := view["drain"]) is None:
        return
    for key, unit in (("files", "Files"), ("bytes", "Bytes")):
        yield _gauge(f"hookd_drain_{key}_left", f"{unit} to be stored.", drain[f"{key}_left"])
        yield _gauge(f"hookd_drain_{key}_done", f"{unit} stored by it.", drain[f"{key}_done"])
    yield _gauge("hookd_drain_elapsed_seconds", "Time since it began.", drain["elapsed_s"])
    if drain["eta_s"] is not None:
        yield _gauge("hookd_drain_eta_seconds", "Time to go at this rate.", drain["eta_s"])


def _gauge(
    name: str, text: str, value: float, labels: dict[str, str] | None = None
) -> GaugeMetricFamily:
    if labels is None:
        return GaugeMetricFamily(name, text, value=float(value))
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), float(value))
    return family


def _states(
    name: str, text: str, label: str, states: Iterable[str], current: str
) -> GaugeMetricFamily:
    """One series for each state, 1 for the current one."""
    family = _family(name, text, label)
    for state in states:
        family.add_metric([state], float(state == current))
    return family


def _family(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=[label])


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    """`_total` is appended by the format."""
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
