"""The metrics over HTTP, on `stats.prometheus_port`, where that is set.

The server is prometheus_client's, with threads of its own; each scrape asks the event loop for the
view, so it sees what a question to the socket would see. A port in use is a notice, not the end of
the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread

from hookd.log import get

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from hookd.settings import StatsSection

log = get("admin")

View = dict[str, Any]

VIEW_WITHIN_S = 10.0
"""A scrape that gets no view by then fails with status 500."""


class _Server(Protocol):
    def shutdown(self) -> None: ...

    def server_close(self) -> None: ...


@asynccontextmanager
async def metrics_over_http(
    stats: StatsSection,
    notices: list[str],
    look: Callable[[], Awaitable[View]],
    registry: Callable[[Callable[[], View]], CollectorRegistry],
) -> AsyncIterator[None]:
    """Serve them while the context lasts, if a port is configured; what is wrong goes to `notices`."""
    server: _Server | None = None
    if stats.prometheus_port is not None:
        try:
            server = _start(stats.prometheus_address, stats.prometheus_port, look, registry)
        except OSError as error:
            where = f"{stats.prometheus_address}:{stats.prometheus_port}"
            notice = f"stats.prometheus_port: no metrics on {where}: {error.strerror or error}"
            log.error("notice", text=notice)
            notices.append(notice)
    try:
        yield
    finally:
        if server is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_stop, server)


def _start(
    address: str,
    port: int,
    look: Callable[[], Awaitable[View]],
    registry: Callable[[Callable[[], View]], CollectorRegistry],
) -> _Server:
    """Listen. Raises OSError."""
    from prometheus_client import start_http_server

    loop = asyncio.get_running_loop()

    async def ask() -> View:
        return await look()

    def look_now() -> View:
        return asyncio.run_coroutine_threadsafe(ask(), loop).result(VIEW_WITHIN_S)

    server, _thread = start_http_server(port, address, registry(look_now))
    log.info("metrics", address=address, port=port)
    return server


def _stop(server: _Server) -> None:
    """Blocking, up to half a second."""
    server.shutdown()
    server.server_close()
