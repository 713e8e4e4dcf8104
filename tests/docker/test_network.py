"""Grid addresses are IPv6: on the host's network, and on a docker network that has IPv6."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.backends import Backends
from tests.docker.container import Content, Docker
from tests.docker.container import docker as client
from tests.docker.world import mounted

MIB = 1 << 20
SUBNET, GATEWAY = "fd00:40d:1::/64", "fd00:40d:1::1"


@pytest.fixture
def bridge() -> Iterator[str]:
    """A docker network with IPv6."""
    name = f"hookd-test-{uuid.uuid4().hex[:12]}"
    options = ["--ipv6", "--subnet", SUBNET, "--gateway", GATEWAY]
    made = client("network", "create", *options, name, check=False)
    if made.returncode:
        pytest.skip(f"docker makes no IPv6 network here: {made.stderr.strip()}")
    yield name
    client("network", "rm", name)


def on(tmp_path: Path, address: str) -> Backends:
    """Backends that listen there."""
    try:
        socket.create_server((address, 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 at {address}: {error}")
    return Backends(tmp_path / "grid", address=address)


@pytest.mark.parametrize("network", ["host", "bridge"])
def test_ipv6(
    docker: Docker, tmp_path: Path, volume: str, network: str, request: pytest.FixtureRequest
) -> None:
    """Stored, and read by another container."""
    address = "::1"
    if network == "bridge":
        network, address = request.getfixturevalue("bridge"), GATEWAY
    content = Content()
    backends = on(tmp_path, address)
    with backends:
        qsfs = docker.container(*mounted(backends, volume), network=network).start()
        content.put(qsfs, "file", 20 * MIB)
        assert qsfs.stop() == 0
        assert "drained: nothing is left" in qsfs.log()
        anew = docker.container(*mounted(backends, docker.volume()), network=network).start()
        assert anew.hashes() == content.expected
        docker.close()
