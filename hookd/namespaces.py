"""`hookd namespaces`: zdb gets the namespaces that zdbfs needs, and never a blank one over a lost one.

    configuration → wait for zdb → is anything held? → make what is absent → mode, password → new index
    files where zdb needs them (`zdb_jump.begin_anew`)

Idempotent: each step looks before it changes anything, so a run that was killed halfway is finished
by the next one, and one that finds everything in order changes nothing (each change is a hook call).
What does not exist is made only after the daemon said `yes` to `may-begin` (`admin.begin`).

Runs in a process of its own, blocking. Weakness: zdb offers no lock, so a restore that begins between
that `yes` and the NSNEW, some milliseconds, is not noticed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hookd.admin.begin import NO, WAIT, YES
from hookd.admin.client import DaemonAway, ask
from hookd.errors import Exit, UserError, ZdbRefused, ZdbUnreachable
from hookd.files import Roots
from hookd.settings import Config
from hookd.settings_namespaces import ZDBFS_TEMP_PASSWORD, NamespaceSection
from hookd.zdb_client import ZdbClient
from hookd.zdb_jump import begin_anew

CALL_LIMIT_S = 5.0
"""zdb answers in microseconds, unless a hook holds it up."""

LOOK_EVERY_S = 0.5
SAY_EVERY_S = 10.0

MODES = {"seq": "sequential", "user": "userkey"}
"""What NSSET takes → what NSINFO says (0-db libzdb/index.c)."""


class NotYet(Exception):
    """Something is not there yet; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One namespace as it has to be."""

    key: str
    """Its table in the configuration: `namespaces.meta`."""
    name: str
    mode: str
    """`seq` or `user`."""
    password: str | None


def wanted(config: Config) -> list[Wanted]:
    """What the configuration asks for, in the order of making."""
    section = config.namespaces
    tables: dict[str, NamespaceSection] = {
        "meta": section.meta,
        "data": section.data,
        "temp": section.temp,
    }
    fallback = {"temp": ZDBFS_TEMP_PASSWORD}
    return [
        Wanted(
            key=f"namespaces.{key}",
            name=table.name,
            mode=table.mode,
            password=None if (given := table.password or fallback.get(key)) is None else str(given),
        )
        for key, table in tables.items()
        if table.name is not None
    ]


class Namespaces:
    """One run of the verb."""

    def __init__(
        self,
        config: Config,
        *,
        wait_s: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`wait_s` bounds the waiting, but not that for a restore; `say` gets lines to show."""
        self._config = config
        self._wanted = wanted(config)
        self._wait_s = max(0.0, wait_s)
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._restoring: str | None = None
        """What the daemon says of a restore that zdb waits for."""

    def run(self) -> dict[str, str]:
        """Name → `made`, `changed`, `begun anew` or `as it was`, once all are there as configured.

        Raises UserError: FAILED where somebody has to decide, UNAVAILABLE where zdb, the daemon or
        the store was not there in time, NOPERM for a password that is refused.
        """
        ends = self._clock() + self._wait_s
        said, said_at = "", 0.0
        done: dict[str, str] = {}
        while True:
            try:
                self._once(done)
                return done
            except NotYet as reason:
                now, line = self._clock(), str(reason)
                if self._restoring is not None:
                    line = f"{line}; hookd keeps zdb waiting: {self._restoring}"
                elif now >= ends:
                    text = f"{line}; gave up after {self._wait_s:g} s"
                    raise UserError(text, code=Exit.UNAVAILABLE) from None
                if line != said or now - said_at >= SAY_EVERY_S:
                    self._say(f"waiting: {line}")
                    said, said_at = line, now
                self._sleep(min(LOOK_EVERY_S, ends - now) if now < ends else LOOK_EVERY_S)

    def _once(self, done: dict[str, str]) -> None:
        """All of it. Raises NotYet, UserError."""
        stats = self._stats()
        held: Mapping[str, str] = {} if isinstance(stats, str) else stats["held"]
        address = self._config.zdb.address or self._heard_address(stats)
        try:
            with ZdbClient(address, limit_s=CALL_LIMIT_S) as zdb:
                self._sign_in(zdb)
                for each in self._wanted:
                    if reason := held.get(each.name):
                        raise UserError(_refusal(each.name, reason))
                for each in self._wanted:
                    self._ensure(zdb, each, stats, done)
            self._begin_anew(address, done)
        except ZdbRefused as error:
            raise _refused_by_zdb(str(error)) from None
        except ZdbUnreachable as error:
            reason = f"zdb does not answer at {address}"
            if held:
                name, why = next(iter(held.items()))
                reason += f"; hookd does not let it serve: {name}: {why}"
            raise NotYet(reason) from error

    # -- the daemon ------------------------------------------------------------------------------

    def _stats(self) -> dict[str, Any] | str:
        """The daemon's picture, or why there is none."""
        self._restoring = None
        try:
            found: dict[str, Any] = json.loads(self._ask("stats"))
            restore = found.get("restore") or {}
            self._restoring = restore.get("waiting") or restore.get("progress")
            return found
        except NotYet as away:
            return str(away)

    def _ask(self, line: str) -> str:
        try:
            return ask(self._config.stats.socket, line)
        except UserError as error:
            if isinstance(error, DaemonAway) or error.code is Exit.UNAVAILABLE:
                raise NotYet(str(error)) from None
            raise

    def _heard_address(self, stats: dict[str, Any] | str) -> str:
        """Where zdb listens, from its hooks' ids. Raises NotYet."""
        if isinstance(stats, str):
            raise NotYet(f"{stats}, and zdb.address is not set")
        found: str | None = stats["zdb"]["address"]
        if not found:
            raise NotYet("zdb has called no hook yet, and zdb.address is not set")
        return found

    # -- zdb -------------------------------------------------------------------------------------

    def _sign_in(self, zdb: ZdbClient) -> None:
        password = self._config.zdb.admin_password
        zdb.ask("PING")
        if password is None:
            return
        try:
            zdb.sign_in(str(password))
        except ZdbRefused:
            text = "zdb.admin_password: zdb refuses it; it is what zdb was given as --admin"
            raise UserError(text, code=Exit.NOPERM) from None

    def _begin_anew(self, address: str, done: dict[str, str]) -> None:
        """In all namespaces, not only in zdbfs's: none of them may lose keys."""
        zdb = self._config.zdb
        password = None if zdb.admin_password is None else str(zdb.admin_password)
        for name in begin_anew(address, Roots(zdb.index, zdb.data), password):
            done[name] = "begun anew"

    def _ensure(
        self,
        zdb: ZdbClient,
        each: Wanted,
        stats: dict[str, Any] | str,
        done: dict[str, str],
    ) -> None:
        info = _info(zdb, each.name)
        done.setdefault(each.name, "as it was")
        if info is None:
            info = self._make(zdb, each, stats)
            done[each.name] = "made"
        if changes := _changes(zdb, each, info):
            for key, value in changes:
                zdb.ask("NSSET", each.name, key, value)
            if done[each.name] != "made":
                done[each.name] = "changed"
        if each.password is not None:
            self._try_password(zdb, each)

    def _make(self, zdb: ZdbClient, each: Wanted, stats: dict[str, Any] | str) -> Mapping[str, str]:
        if isinstance(stats, str):
            raise NotYet(
                f"{each.name} has to be made, but nobody can tell whether it is lost: {stats}"
            )
        answer = self._ask(f"may-begin {each.name}")
        if answer != YES:
            if (made := _info(zdb, each.name)) is not None:
                return made  # by somebody else meanwhile
            if answer.startswith(WAIT):
                raise NotYet(f"{each.name} has to be made, but {answer.removeprefix(WAIT)}")
            raise UserError(_refusal(each.name, answer.removeprefix(NO)))
        zdb.ask("NSNEW", each.name)
        info = _info(zdb, each.name)
        if info is None:
            raise UserError(f"{each.name}: zdb made it, and does not know it")
        return info

    def _try_password(self, zdb: ZdbClient, each: Wanted) -> None:
        """As zdbfs will do it."""
        assert each.password is not None
        try:
            zdb.select(each.name, each.password)
        except ZdbRefused:
            raise UserError(
                f"{each.name} has another password than {each.key}.password; set that one, or change"
                f" zdb's (NSSET {each.name} password)"
            ) from None


def _changes(zdb: ZdbClient, each: Wanted, info: Mapping[str, str]) -> list[tuple[str, str]]:
    """What NSSET has to set. Raises UserError for what cannot be set any more."""
    changes: list[tuple[str, str]] = []
    if info["mode"] != MODES[each.mode]:
        if info["entries"] != "0":
            raise UserError(
                f"{each.name} is in {info['mode']} mode and has {info['entries']} entries, expected"
                f" {MODES[each.mode]}; correct {each.key}.mode, or give it another name"
            )
        changes.append(("mode", each.mode))
    if each.password is None:
        if info["password"] == "yes":
            raise UserError(
                f"{each.name} has a password, and {each.key}.password is not set: zdbfs could not open it"
            )
        return changes
    if info["password"] != "yes":
        changes.append(("password", each.password))
    if info["public"] != "no":
        changes.append(("public", "0"))
    return changes


def _refusal(name: str, reason: str) -> str:
    return f"{name} is not made blank: {reason}; see `hookd status`"


def _refused_by_zdb(text: str) -> UserError:
    if text == "Permission denied":
        return UserError(
            "zdb.admin_password: zdb has one (--admin), and it is not set here;"
            " set HOOKD_ZDB__ADMIN_PASSWORD or HOOKD_ZDB__ADMIN_PASSWORD_FILE",
            code=Exit.NOPERM,
        )
    return UserError(f"zdb refuses: {text}")


def _info(zdb: ZdbClient, name: str) -> Mapping[str, str] | None:
    """What NSINFO says, None for a namespace that zdb does not have."""
    try:
        answer = zdb.ask("NSINFO", name)
    except ZdbRefused as error:
        if str(error) == "Namespace not found":
            return None
        raise
    lines = answer.decode("utf-8", "replace").splitlines()
    return {key: value for key, colon, value in (line.partition(": ") for line in lines) if colon}
