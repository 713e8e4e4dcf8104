"""Stage admin: the stats socket of the daemon: what can be asked, and what can be told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio

from hookd.admin import by_hand, verbs
from hookd.admin.begin import may_begin
from hookd.admin.lines import REFUSED, Asked, Command, LineServer, Refused
from hookd.admin.metrics import registry
from hookd.admin.picture import AsksZdb, Picture
from hookd.admin.scrape import metrics_over_http
from hookd.admin.view import STATES, queue_view
from hookd.admin.words import one_line
from hookd.log import get, scrub

if TYPE_CHECKING:
    from hookd.parts import Parts

log = get("admin")

DEFAULT_ROWS = 50
MAX_ROWS = 100_000
WATCH_EVERY_S = 0.2


class AdminServer(LineServer):
    """Answers on `stats.socket` until cancelled."""

    def __init__(self, parts: Parts, zdb: AsksZdb, daemon: by_hand.Restores) -> None:
        """Listens; the caller holds the socket's lock. Raises UserError."""
        config = parts.config
        self._parts = parts
        self._zdb, self._daemon = zdb, daemon
        self._picture = Picture(parts, zdb)
        self._watching = False
        super().__init__(config.stats.socket, self._table(), config.hook.allow_users)

    async def run(self) -> None:
        """Accept and answer. Cancellation lets go of all connections."""
        parts = self._parts
        http = metrics_over_http(parts.config.stats, parts.notices, self._picture.look, registry)
        async with http:
            await super().run()

    def changed(self) -> None:
        """The next look is a new one."""
        self._picture.forget()

    # -- what can be asked -----------------------------------------------------------------------

    def _table(self) -> dict[str, Command]:
        return {
            "stats": Command("stats", "everything, as one JSON object", self._stats),
            "health": Command("health", "ok, degraded or failing; the reasons", self._health),
            "queue": Command("queue [--json] [LIMIT] [STATE]", "what is not stored", self._queue),
            "metrics": Command("metrics", "the same for Prometheus", self._metrics),
            "may-begin": Command("may-begin NAMESPACE", "may zdb make it?", self._may_begin),
            "retry": Command("retry all|ID|FILE", "try it at once", self._retry, True),
            "skip": Command("skip ID|FILE", "give up a quarantined file", self._skip, True),
            "pause": Command("pause", "start no further store", self._pause, True),
            "resume": Command("resume", "store again", self._resume, True),
            "release": Command("release", "zdb may use what is kept free", self._release, True),
            "checkpoint": Command(
                "checkpoint [--json] [--timeout SECONDS]",
                "store all that zdb holds now; lines say how far it is",
                self._checkpoint,
                True,
            ),
            "take": Command(
                "take NAMESPACE|* local|remote", "whose files are the right ones", self._take, True
            ),
            "restore": Command(
                "restore [--namespace NS] [--full]",
                "bring back what is missing here, with zdb stopped; --full: all data files, at any time",
                self._restore,
                True,
            ),
            "audit": Command(
                "audit [--deep] [--namespace NS] [--after FILE]", "audit now", self._audit, True
            ),
            "audit-report": Command("audit-report N", "how far audit N is", self._audit_report),
            "audit-cancel": Command("audit-cancel N", "give it up", self._audit_cancel, True),
        }

    async def _stats(self, asked: Asked) -> str:
        return json.dumps(await self._picture.look())

    async def _health(self, asked: Asked) -> str:
        found = (await self._picture.look())["health"]
        return "\n".join([found["status"], *found["reasons"]])

    async def _metrics(self, asked: Asked) -> str:
        from hookd.admin import metrics

        return metrics.render(await self._picture.look()).rstrip("\n")

    async def _queue(self, asked: Asked) -> str:
        from hookd.admin.listing import queue_text

        limit, state, as_json = _queue_arguments(asked.rest)
        found = queue_view(self._parts, limit, state)
        return json.dumps(found) if as_json else queue_text(found)

    async def _may_begin(self, asked: Asked) -> str:
        return await may_begin(self._parts, _needed(asked, "may-begin NAMESPACE"))

    # -- what can be told --------------------------------------------------------------------------

    async def _retry(self, asked: Asked) -> str:
        return await verbs.retry(self._parts, _needed(asked, "retry all|ID|FILE"), asked.uid)

    async def _skip(self, asked: Asked) -> str:
        return await verbs.skip(self._parts, _needed(asked, "skip ID|FILE"), asked.uid)

    async def _audit(self, asked: Asked) -> str:
        return json.dumps({"run": verbs.audit(self._parts, asked.rest, asked.uid)})

    async def _audit_report(self, asked: Asked) -> str:
        return json.dumps(verbs.audit_report(self._parts, asked.rest))

    async def _audit_cancel(self, asked: Asked) -> str:
        return verbs.audit_cancel(self._parts, asked.rest, asked.uid)

    async def _restore(self, asked: Asked) -> str:
        async def say(found: dict[str, Any]) -> None:
            await asked.say(json.dumps(found))

        return json.dumps(
            await by_hand.restore(self._parts, self._zdb, self._daemon, asked.rest, asked.uid, say)
        )

    async def _take(self, asked: Asked) -> str:
        namespace, _, choice = _needed(asked, "take NAMESPACE|* local|remote").rpartition(" ")
        return await verbs.take(self._parts, self._zdb, namespace, choice, asked.uid)

    async def _pause(self, asked: Asked) -> str:
        answer = verbs.pause(self._parts, asked.uid)
        if not self._watching:
            self._watching = True
            self._group.start_soon(self._watch_pause)
        return answer

    async def _resume(self, asked: Asked) -> str:
        return verbs.resume(self._parts, asked.uid)

    async def _release(self, asked: Asked) -> str:
        answer = verbs.release(self._parts, asked.uid)
        await self._parts.room.look()
        return answer

    async def _checkpoint(self, asked: Asked) -> str:
        timeout_s, as_json = _checkpoint_arguments(asked.rest)

        async def say(doing: str) -> None:
            line = one_line(scrub(doing))
            await asked.say(json.dumps({"doing": line}) if as_json else line)

        outcome = await verbs.checkpoint(self._parts, timeout_s, asked.uid, say)
        if as_json:
            return scrub(json.dumps(outcome.as_dict()))
        return f"{'' if outcome.safe else REFUSED}{one_line(scrub(outcome.line()))}"

    async def _watch_pause(self) -> None:
        """A drain ends a pause: it could never end otherwise."""
        parts = self._parts
        while parts.dispatcher.paused and parts.phase == "running":  # noqa: ASYNC110 plain fields
            await anyio.sleep(WATCH_EVERY_S)
        self._watching = False
        if parts.dispatcher.paused:
            log.warning("the drain ends the pause")
            parts.dispatcher.paused = False
            parts.dispatcher.wake()
            parts.notices.append("storing was paused; the drain goes on with it")
            self._picture.forget()


def _queue_arguments(rest: str) -> tuple[int, str | None, bool]:
    """(limit, state, whether JSON). Raises Refused."""
    limit, state, as_json = DEFAULT_ROWS, None, False
    for word in rest.split():
        if word == "--json":
            as_json = True
        elif word in STATES:
            state = word
        elif word.isascii() and word.isdigit() and 0 < int(word[:9]) <= MAX_ROWS:
            limit = int(word[:9])
        else:
            raise Refused(
                f"read {word[:40]!r}, expected a number from 1 to {MAX_ROWS} or one of"
                f" {', '.join(STATES)}"
            )
    return limit, state, as_json


def _checkpoint_arguments(rest: str) -> tuple[float, bool]:
    """(seconds, whether JSON). Raises Refused."""
    timeout_s, as_json = verbs.CHECKPOINT_WITHIN_S, False
    words = iter(rest.split())
    for word in words:
        if word == "--json":
            as_json = True
            continue
        value = next(words, "nothing") if word == "--timeout" else word
        try:
            timeout_s = float(value)
        except ValueError:
            timeout_s = -1.0
        if word != "--timeout" or not 0 < timeout_s <= verbs.CHECKPOINT_WITHIN_MOST_S:
            raise Refused(
                f"read {value[:40]!r}, expected --json or --timeout and a number of seconds"
                f" up to {verbs.CHECKPOINT_WITHIN_MOST_S:g}"
            )
    return timeout_s, as_json


def _needed(asked: Asked, usage: str) -> str:
    if not asked.rest:
        raise Refused(f"expected {usage}")
    return asked.rest
