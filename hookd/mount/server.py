"""Stage mount, its stats socket: stats, health, metrics, queue; as the daemon's (`hookd.admin`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from hookd.admin.lines import Asked, Command, LineServer
from hookd.admin.scrape import metrics_over_http
from hookd.mount.drain import left_of
from hookd.mount.state import State
from hookd.mount.view import KIND, View, view
from hookd.settings import StatsSection

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class MountServer(LineServer):
    """Answers on `stats.socket` until cancelled."""

    def __init__(self, stats: StatsSection, state: State) -> None:
        """Listens; the caller holds the socket's lock. Raises UserError."""
        self._stats_settings = stats
        self._state = state
        table = {
            "stats": Command("stats", "everything, as one JSON object", self._stats),
            "health": Command("health", "ok, degraded or failing; the reasons", self._health),
            "queue": Command(
                "queue [--json] [LIMIT]", "what is not on the remote yet", self._queue
            ),
            "metrics": Command("metrics", "the same for Prometheus", self._metrics),
        }
        super().__init__(stats.socket, table, ())

    async def run(self) -> None:
        """Accept and answer. Cancellation lets go of all connections."""
        http = metrics_over_http(self._stats_settings, self._state.notices, self._look, _registry)
        async with http:
            await super().run()

    async def _look(self) -> View:
        return view(self._state)

    async def _stats(self, asked: Asked) -> str:
        return json.dumps(view(self._state))

    async def _health(self, asked: Asked) -> str:
        found = view(self._state)["health"]
        return "\n".join([found["status"], *found["reasons"]])

    async def _queue(self, asked: Asked) -> str:
        finding, words = self._state.finding, asked.rest.split()
        left = left_of(finding.dirty, finding.queue)
        limit = next((int(word) for word in words if word.isdecimal()), len(left))
        lines = [each.line() for each in left[:limit]] or ["nothing waits"]
        if len(left) > limit:
            lines.append(f"and {len(left) - limit} more")
        if "--json" not in words:
            return "\n".join(lines)
        rows = [
            {
                "name": each.name,
                "size_bytes": each.size_bytes,
                "why": each.why.value,
                "detail": each.detail,
            }
            for each in left[:limit]
        ]
        return json.dumps({"kind": KIND, "files": len(left), "rows": rows, "lines": lines})

    async def _metrics(self, asked: Asked) -> str:
        from prometheus_client import generate_latest

        return generate_latest(_registry(lambda: view(self._state))).decode().rstrip("\n")


def _registry(look: Callable[[], View]) -> CollectorRegistry:
    from hookd.mount.metrics import registry

    return registry(look)
