"""zdb's own protocol: one blocking connection, signed in and asked.

Passwords are never sent as they are: zdb gives a challenge, and is told SHA-1 of `challenge:password`
(0-db zdbd/commands_auth.c, libzdb/security.c; `SELECT` takes the same). The invariant: no password is
in an error.
"""

from __future__ import annotations

import hashlib
import struct
from threading import Timer
from typing import Any

from hookd.errors import ZdbRefused, ZdbUnreachable
from hookd.zdb import LINGER_S, place_of

CALL_LIMIT_S = 5.0
"""zdb answers in microseconds, unless a hook holds it up."""

_OPEN = "Authentication disabled"
"""A zdb without --admin: every client may do everything (0-db zdbd/commands_auth.c)."""

_HOOKED = ("NSNEW", "NSSET", "NSJUMP")
"""Commands that start a hook: see `LINGER_S`."""

_DESCRIPTOR = struct.Struct("<IBBQB")
"""Head of zdb-namespace: version, length of the name, of the password, maxsize, flags; then both."""


class ZdbClient:
    """One connection: who is signed in is so for that one only.

    Every call blocks for at most `limit_s`; raises ZdbRefused and ZdbUnreachable. After the latter the
    connection is of no use any more.
    """

    def __init__(self, address: str, *, limit_s: float = CALL_LIMIT_S) -> None:
        """Connects; `address` as zdb prints its id."""
        # Imported where it is needed: the daemon's start and `hookd status` do not pay for it.
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._address = address
        self._changed = False
        try:
            place = place_of(address)
        except ValueError:
            raise ZdbUnreachable(f"{address!r} is no address of a zdb") from None
        where: dict[str, Any] = (
            {"unix_socket_path": place}
            if isinstance(place, str)
            else {"host": place[0], "port": place[1]}
        )
        self._refused = redis.ResponseError
        self._lost = (redis.ConnectionError, redis.TimeoutError, OSError)
        try:
            self._client = redis.Redis(
                single_connection_client=True,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=limit_s,
                socket_connect_timeout=limit_s,
                **where,
            )
        except self._lost as error:
            raise self._unreachable(error) from None
        self._client.response_callbacks.clear()  # redis's own AUTH has no answer but "OK"

    def __enter__(self) -> ZdbClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; where a hook was started, from a thread that the process waits for at its end."""
        if self._changed:
            self._changed = False
            Timer(LINGER_S, self._client.close).start()
        else:
            self._client.close()

    def ask(self, *words: str | bytes) -> Any:
        """One command and zdb's answer."""
        self._changed |= words[0] in _HOOKED
        try:
            return self._client.execute_command(*words)  # type: ignore[no-untyped-call]
        except self._refused as error:
            raise ZdbRefused(str(error)) from None
        except self._lost as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> ZdbUnreachable:
        return ZdbUnreachable(f"zdb does not answer at {self._address}: {error}")

    def sign_in(self, password: str) -> None:
        """Become admin; of a zdb without --admin everybody is."""
        try:
            self.ask("AUTH", "SECURE", self._proof(password))
        except ZdbRefused as error:
            if str(error) != _OPEN:
                raise

    def select(self, namespace: str, password: str | None = None) -> None:
        """Open a namespace."""
        if password is None:
            self.ask("SELECT", namespace)
        else:
            self.ask("SELECT", namespace, "SECURE", self._proof(password))

    def jump(self) -> None:
        """Close the active files of the open namespace and begin new ones (NSJUMP, for admins).

        zdb answers when the hook jump-index has, and then takes anything for success: what came of the
        hook it does not say.
        """
        self.ask("NSJUMP")

    def _proof(self, password: str) -> str:
        challenge: bytes = self.ask("AUTH", "SECURE", "CHALLENGE")
        secret = password.encode("utf-8", "surrogateescape")
        return hashlib.sha1(challenge + b":" + secret, usedforsecurity=False).hexdigest()


def password_of(descriptor: bytes) -> str | None:
    """The password in the content of a zdb-namespace file, None for a namespace without one.

    Raises ValueError for what is no descriptor (0-db libzdb/namespace.c).
    """
    if len(descriptor) < _DESCRIPTOR.size:
        raise ValueError(f"read {len(descriptor)} bytes, expected at least {_DESCRIPTOR.size}")
    _, name_length, password_length, _, _ = _DESCRIPTOR.unpack_from(descriptor)
    begin = _DESCRIPTOR.size + name_length
    if len(descriptor) < begin + password_length:
        raise ValueError(f"read {len(descriptor)} bytes, expected {begin + password_length}")
    password = descriptor[begin : begin + password_length]
    return password.decode("utf-8", "surrogateescape") if password else None


def limit_of(descriptor: bytes) -> int:
    """The size limit in bytes in the content of a zdb-namespace file, 0 for none. Raises ValueError."""
    if len(descriptor) < _DESCRIPTOR.size:
        raise ValueError(f"read {len(descriptor)} bytes, expected at least {_DESCRIPTOR.size}")
    limit: int = _DESCRIPTOR.unpack_from(descriptor)[3]
    return limit
