"""Whether zstor's backends can be reached: a TCP connection each, all at once."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

CONNECT_WITHIN_S = 3.0

Address = tuple[str, int]


def shown(address: Address) -> str:
    """`host:port`, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def away(addresses: Iterable[Address]) -> dict[Address, str]:
    """Those that cannot be reached, with the reason. Blocks for CONNECT_WITHIN_S at most."""
    wanted = list(dict.fromkeys(addresses))
    with ThreadPoolExecutor(max_workers=min(32, len(wanted) or 1)) as pool:
        reasons = list(pool.map(_reason, wanted))
    return {address: reason for address, reason in zip(wanted, reasons, strict=True) if reason}


def _reason(address: Address) -> str | None:
    try:
        with socket.create_connection(address, timeout=CONNECT_WITHIN_S):
            return None
    except TimeoutError:
        return f"no answer within {CONNECT_WITHIN_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
