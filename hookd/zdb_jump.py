"""NSJUMP for one namespace of the zdb whose hooks come here: its active files are closed, new ones begun.

The namespace's password, if it has one, is in its descriptor on disk. zdb stands still until the hook
jump-index was answered, by this daemon, so the call is made in a thread.

The invariant: afterwards zdb finds every key that it gives out, whatever lay there before (`zdb_tail`).
"""

from __future__ import annotations

import contextlib
from functools import partial

import anyio.to_thread

from hookd.errors import ZdbRefused, ZdbUnreachable
from hookd.files import Roots, namespace_key
from hookd.zdb import ZdbLife
from hookd.zdb_client import ZdbClient, password_of
from hookd.zdb_tail import Tail, tail

JUMP_LIMIT_S = 60.0
"""A missing-data before it may take as long (`hook.missing_data_deadline_s`)."""

_NO_ADMIN = "Permission denied"
"""What zdb says to whoever is not admin (0-db zdbd/commands.c)."""


async def jump(life: ZdbLife, roots: Roots, admin_password: str | None, namespace: str) -> None:
    """Raises ZdbUnreachable, and ZdbRefused with what to do. Cancelled, zdb may still do it."""
    address = life.address or life.heard_before
    if address is None:
        raise ZdbUnreachable("where zdb listens is not known yet; set zdb.address")
    work = partial(jump_now, address, roots, admin_password, namespace)
    await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


def jump_now(address: str, roots: Roots, admin_password: str | None, namespace: str) -> None:
    """`jump` for a known address. Blocking."""
    with ZdbClient(address, limit_s=JUMP_LIMIT_S) as zdb:
        if admin_password is not None:
            try:
                zdb.sign_in(admin_password)
            except ZdbRefused as error:
                raise ZdbRefused(f"zdb.admin_password is refused: {error}") from None
        zdb.select(namespace, _password(roots, namespace))
        try:
            if tail(roots, namespace) in (Tail.BEGUN, Tail.UNKNOWN):
                _use_a_key(zdb)
            zdb.jump()
        except ZdbRefused as error:
            if str(error) == _NO_ADMIN:
                text = "NSJUMP is for admins; set zdb.admin_password to zdb's --admin"
                raise ZdbRefused(text) from None
            raise


def begin_anew(address: str, roots: Roots, admin_password: str | None) -> list[str]:
    """Have zdb begin new files in each namespace whose newest index zdb has been started on blank.

    Such files were closed, by a checkpoint or --rotate, and nothing was written before the stop. To be
    called after each start of zdb, before anybody writes; a second call finds nothing to do. Returns the
    names of the namespaces. Blocking; raises ZdbUnreachable, ZdbRefused.
    """
    found = [n for n in roots.namespaces() if tail(roots, n) in (Tail.LOADED, Tail.UNKNOWN)]
    for namespace in found:
        try:
            jump_now(address, roots, admin_password, namespace)
        except ZdbRefused as error:
            raise ZdbRefused(f"{namespace}: no new index file: {error}") from None
    return found


def _use_a_key(zdb: ZdbClient) -> None:
    """Give the blank index an entry, so that the next one begins with another key.

    An update uses up a key too, so clients are used to gaps. Where zdb does not find it again, because
    it was started on the blank file, it stays as a value of one byte that nobody knows of.
    """
    key = zdb.ask("SET", "", "-")
    with contextlib.suppress(ZdbRefused):
        zdb.ask("DEL", key)


def _password(roots: Roots, namespace: str) -> str | None:
    """From the descriptor; a lost or damaged one is as one without (zdb then says what it wants)."""
    try:
        return password_of(roots.path(namespace_key(namespace)).read_bytes())
    except (OSError, ValueError):
        return None
