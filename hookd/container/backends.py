"""Whether zstor's backends can be reached, and let it in: a connection each, all at once."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hookd.container.zstor_toml import Login
from hookd.errors import ZdbRefused, ZdbUnreachable
from hookd.zdb_client import ZdbClient

CONNECT_WITHIN_S = 3.0

_DENIALS = ("Namespace not found", "Namespace protected and private", "Access denied")
"""0-db zdbd/commands_namespace.c, `command_select`."""

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


def denied(logins: Sequence[Login]) -> list[tuple[Login, str]]:
    """Those that answer, but do not know the namespace or its password, with what they say.

    One that is away, or says anything else, is another matter: it may be right later.
    """
    with ThreadPoolExecutor(max_workers=min(32, len(logins) or 1)) as pool:
        answers = list(pool.map(_denial, logins))
    return [(login, said) for login, said in zip(logins, answers, strict=True) if said]


def _denial(login: Login) -> str | None:
    try:
        with ZdbClient(f"tcp://{shown(login.address)}", limit_s=CONNECT_WITHIN_S) as zdb:
            zdb.select(login.namespace, login.password)
    except ZdbRefused as error:
        return str(error) if str(error) in _DENIALS else None
    except ZdbUnreachable:
        pass
    return None


def _reason(address: Address) -> str | None:
    try:
        with socket.create_connection(address, timeout=CONNECT_WITHIN_S):
            return None
    except TimeoutError:
        return f"no answer within {CONNECT_WITHIN_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
