"""Fixtures for whoever plays the record: modules say `pytest_plugins = ["tests.e2e.recorded"]`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from hookd.demo.trace import Step, load
from tests.fakes.zdb import accept_forever


@pytest.fixture(scope="session")
def steps() -> list[Step]:
    """The recorded life of a zdb."""
    return load()


@pytest.fixture
def listener() -> Iterator[tuple[str, Callable[[], None]]]:
    """A zdb of which nothing but its listener is there: its id, and what ends it."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept_forever, args=(server,), daemon=True).start()

    def end() -> None:
        if server.fileno() >= 0:
            server.shutdown(socket.SHUT_RDWR)
            server.close()

    yield f"tcp://127.0.0.1:{server.getsockname()[1]}", end
    end()
