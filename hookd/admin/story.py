"""What the status screen says: a view into a headline and labelled lines. `screen` has the looks.

The headline answers the one question first: is everything stored, and if not, what is in the way?
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hookd.admin.health import reasons
from hookd.admin.safety import sentence
from hookd.admin.words import count, duration, listed, number, one_line, size, verb

View = dict[str, Any]

MAX_NAMESPACES = 5
MAX_HOOKS = 4


class Row(NamedTuple):  # no dataclass: see hookd.admin.client.Places
    """One labelled line."""

    label: str = ""
    """Nothing: it goes on with the line above."""
    text: str = ""
    tone: str = ""
    """good, warn, bad, dim, or one of the queue's states."""
    bar: tuple[tuple[str, float], ...] = ()
    """(tone, share of 1) in order, shown where there are colours."""


class Story(NamedTuple):
    """All of the screen."""

    headline: str
    tone: str
    about: str
    """Which hookd this is."""
    rows: list[Row]
    attention: list[str]
    """What an administrator has to look at."""


def tell(view: View) -> Story:
    """The whole screen."""
    headline, tone = _headline(view)
    rows = [row for say in _ROWS for row in say(view)]
    told = (
        "store",
        "paused",
        "fence",
        "restore",
    )  # the headline and the store's own row have said it
    attention = [text for about, text in reasons(view) if about not in told]
    attention += [one_line(notice) for notice in view["notices"]]
    about = f"hookd {view['version']}, pid {view['pid']}, up {duration(view['uptime_s'])}"
    return Story(
        headline=one_line(headline), tone=tone, about=about, rows=rows, attention=attention
    )


# -- the headline ------------------------------------------------------------------------------


def _headline(view: View) -> tuple[str, str]:
    """(sentence, tone): the first that applies, the worst first."""
    states, journal = view["queue"]["states"], view["journal"]
    waiting = view["queue"]["files"] - states["quarantined"]["files"]
    if journal["state"] != "ok":
        return "The journal cannot be written: shims keep their events themselves.", "bad"
    if view["fence"]["fenced"]:
        return f"Nothing is stored any more: {view['fence']['fenced']}.", "bad"
    if view["restore"]["progress"]:
        return f"Restoring {view['restore']['progress']}.", "warn"
    if view["restore"]["waiting"]:
        return f"zdb waits: {view['restore']['waiting']}.", "bad"
    if view["held"]:
        names = list(view["held"])
        takes = verb(len(names), "is", "are")
        return f"{listed(names)} {takes} held: not stored until the local files are whole.", "bad"
    if view["phase"] != "running":
        return _draining(view)
    if alarms := view["audit"]["alarm_files"]:
        what = verb(alarms, "is not what it should be", "are not what they should be")
        return f"{count(alarms, 'file')} {what}: see below, or `hookd verify`.", "bad"
    if names := view["nameless"]:
        its = verb(len(names), "its name is", "their names are")
        return f"{listed(names)} cannot be stored: {its} no UTF-8.", "bad"
    if view["store"]["blind"] and view["store"]["blind"]["advice"]:
        return f"zstor is blind: {_wait(view)}, nothing is lost; restart zstor.", "bad"
    if view["store"]["state"] == "down":
        down = duration(view["store"]["down_s"])
        return f"The store has been down for {down}: {_wait(view)}, nothing is lost.", "warn"
    if quarantined := states["quarantined"]["files"]:
        more = f"; {number(waiting)} more {verb(waiting, 'waits', 'wait')}" if waiting else ""
        needs = verb(quarantined, "needs", "need")
        return f"{count(quarantined, 'file')} {needs} a decision{more}.", "bad"
    if view["paused"]:
        return f"Storing is paused: {_wait(view)}.", "warn"
    if waiting:
        age = duration(view["queue"]["oldest_age_s"] or 0.0)
        return f"{_wait(view, capital=True)}; the oldest for {age}.", "good"
    if view["spool"]["waiting"]:
        return f"{count(view['spool']['waiting'], 'event')} in the spool wait to be read.", "warn"
    if lost := sum(view["spool"]["elsewhere"].values()):
        return f"{count(lost, 'event')} in a spool that nobody reads: see below.", "bad"
    if not view["totals"]["events"]["accepted"] and not (view["ledger"] or {}).get("files"):
        return "Ready; zdb has not asked for anything yet.", "good"
    return "Everything is stored.", "good"


def _draining(view: View) -> tuple[str, str]:
    drain = view["drain"]
    if view["phase"] == "stopping" or drain is None:
        return f"Stopping: {_wait(view)}.", "warn"
    left = drain["files_left"]
    what = f"{count(left, 'file')} ({size(drain['bytes_left'])}) to go" if left else "no file waits"
    return f"Stopping: {what}; {drain['waiting_for']}.", "warn"


def _wait(view: View, *, capital: bool = False) -> str:
    """`3 files (48 MiB) wait`: all but the quarantined ones."""
    queue = view["queue"]
    held = queue["states"]["quarantined"]
    files, total = queue["files"] - held["files"], queue["bytes"] - held["bytes"]
    if not files:
        return "Nothing waits" if capital else "nothing waits"
    return f"{count(files, 'file')} ({size(total)}) {verb(files, 'waits', 'wait')}"


# -- the rows ----------------------------------------------------------------------------------


def _drain(view: View) -> Iterator[Row]:
    drain = view["drain"]
    if drain is None or not drain["files_done"] + drain["files_left"]:
        return
    done, total = drain["bytes_done"], drain["bytes_done"] + drain["bytes_left"]
    share = done / total if total else float(not drain["files_left"])
    files = drain["files_done"] + drain["files_left"]
    text = f"{share:.0%}, {number(drain['files_done'])} of {count(files, 'file')}"
    text += f", {size(drain['rate_bytes_s'])}/s"
    if drain["eta_s"] is not None:
        text += f", about {duration(max(1.0, drain['eta_s']))} to go"
    yield Row(label="Drain", text=text, bar=(("good", share), ("dim", 1 - share)))


def _queue(view: View) -> Iterator[Row]:
    queue = view["queue"]
    if not queue["files"]:
        yield Row(label="Queue", text="empty")
        return
    text = f"{count(queue['files'], 'file')}, {size(queue['bytes'])}"
    if queue["oldest_age_s"] is not None:
        text += f", the oldest for {duration(queue['oldest_age_s'])}"
    amounts = {state: amount for state, amount in queue["states"].items() if amount["files"]}
    bar = tuple((state, a["files"] / queue["files"]) for state, a in amounts.items())
    yield Row(label="Queue", text=text, bar=bar if len(bar) > 1 else ())
    for state, amount in amounts.items():
        text = f"{state:<11}  {number(amount['files']):>7}  {size(amount['bytes']):>10}"
        yield Row(text=text + _hint(view, state), tone=state)


def _hint(view: View, state: str) -> str:
    if state == "blocked":
        return "  until what they need is stored"
    if state == "quarantined":
        return "  `hookd queue --state quarantined`"
    return "  paused, see `hookd resume`" if state == "pending" and view["paused"] else ""


def _namespaces(view: View) -> Iterator[Row]:
    spaces = view["queue"]["namespaces"]
    if len(spaces) < 2:
        return
    most = sorted(spaces.items(), key=lambda item: -item[1]["files"])
    texts = [f"{one_line(name)} {number(amount['files'])}" for name, amount in most]
    yield Row(text=f"by namespace: {listed(texts, MAX_NAMESPACES)}", tone="dim")


def _store(view: View) -> Iterator[Row]:
    store = view["store"]
    if store["state"] == "down":
        text = f"{store['kind']}: down, {count(store['failures'], 'try', 'tries')}"
        if store["next_try_in_s"]:
            text += f", next in {duration(store['next_try_in_s'])}"
        yield Row(label="Store", text=text, tone="bad")
        yield Row(text=one_line(store["last_error"] or ""), tone="bad")
        return
    if store["last_success"] is None:
        yield Row(label="Store", text=f"{store['kind']}: not used yet")
        return
    ago = duration(max(0.0, view["started_at"] + view["uptime_s"] - store["last_success"]))
    yield Row(label="Store", text=f"{store['kind']}: up, last stored {ago} ago", tone="good")


def _stored(view: View) -> Iterator[Row]:
    totals, ledger = view["totals"], view["ledger"]
    if ledger is not None:
        text = f"{count(ledger['files'], 'file')}, {size(ledger['bytes'])}, verified by checksum"
        yield Row(label="Stored", text=text)
    text = f"{count(totals['settled_files'], 'file')}, {size(totals['settled_bytes'])} stored"
    for key, word in (("already_there", "there already"), ("superseded", "superseded")):
        if totals[key]:
            text += f", {number(totals[key])} {word}"
    yield Row(label="This run", text=text)


def _safe(view: View) -> Iterator[Row]:
    if (found := sentence(view)) is not None:
        text, tone = found
        yield Row(label="Safe", text=text, tone=tone)
    if doing := view["checkpoint"]["doing"]:
        yield Row(text=f"checkpoint: {one_line(doing)}", tone="running")


def _errors(view: View) -> Iterator[Row]:
    label = "Errors"
    for name, error in view["errors"].items():
        text = f"{name} × {number(error['count'])}"
        if error["last"] and error["last"] != view["store"]["last_error"]:  # said above
            text += f", last: {one_line(error['last'])}"
        yield Row(label=label, text=text, tone="dim")
        label = ""


def _audit(view: View) -> Iterator[Row]:
    audit, now = view["audit"], view["started_at"] + view["uptime_s"]
    ago = ""
    if audit["complete_at"] is not None:
        ago = f"last whole one {duration(max(0.0, now - audit['complete_at']))} ago"
        found = audit["alarm_files"]
        ago += f", {count(found, 'alarm')}" if found else ", nothing wrong"
    if (run := audit["running"]) is not None:
        text = "looks at local files"
        if run["state"] in ("store", "deep"):
            text = f"{number(run['files_done'])} of {count(run['files'], 'file')}"
            text += " retrieved" if run["state"] == "deep" else " compared with the store"
        yield Row(label="Audit", text=f"{text}; {ago}" if ago else text)
    elif ago:
        yield Row(label="Audit", text=ago, tone="bad" if audit["alarm_files"] else "")


def _zdb(view: View) -> Iterator[Row]:
    zdb = view["zdb"]
    where = f" at {one_line(zdb['address'])}" if zdb["address"] else ""
    if zdb["running"] is None:
        yield Row(label="zdb", text=f"not known to run{where}", tone="dim")
    elif zdb["running"]:
        yield Row(label="zdb", text=f"{'closing' if zdb['closing'] else 'runs'}{where}")
    else:
        yield Row(label="zdb", text=f"does not run{where}")


def _events(view: View) -> Iterator[Row]:
    events = view["totals"]["events"]
    most = sorted(events["by_hook"].items(), key=lambda item: -item[1])
    text = f"{number(events['accepted'])} kept"
    if most:
        hooks = [f"{one_line(name)} {number(amount)}" for name, amount in most]
        text += f": {listed(hooks, MAX_HOOKS)}"
    yield Row(label="Events", text=text)
    odd = [f"{number(events[key])} {key}" for key in ("refused", "unknown", "held") if events[key]]
    if odd:
        yield Row(text=", ".join(odd), tone="warn")


def _snapshots(view: View) -> Iterator[Row]:
    staging = view["staging"]
    if staging["bytes"] or staging["refused"]:
        limit = "" if staging["max_bytes"] is None else f" of {size(staging['max_bytes'])}"
        tone = "bad" if staging["refused"] else ""
        yield Row(label="Snapshots", text=f"{size(staging['bytes'])}{limit}", tone=tone)


def _spool(view: View) -> Iterator[Row]:
    spool = view["spool"]
    amounts = (("waiting", "waiting"), ("taken", "taken in"), ("bad", "unreadable"))
    texts = [f"{number(spool[key])} {word}" for key, word in amounts if spool[key]]
    if texts:
        tone = "warn" if spool["bad"] or spool["waiting"] else ""
        yield Row(label="Spool", text=", ".join(texts), tone=tone)


def _retrieves(view: View) -> Iterator[Row]:
    found = view["retrieve"]
    for key, now in found["arriving"].items():
        of = f" of {size(now['of'])}" if now["of"] else ""
        yield Row(label="Fetching", text=f"{one_line(key)}: {size(now['bytes'])}{of}", tone="")
    if not found["done"] and not found["failed"]:
        return
    text = f"{count(found['done'], 'data file')} brought back"
    if found["failed"]:
        text += f", {number(found['failed'])} failed, last: {one_line(found['last_error'] or '')}"
    yield Row(label="Retrieved", text=text, tone="warn" if found["failed"] else "")


_ROWS = (
    _drain,
    _queue,
    _namespaces,
    _store,
    _safe,
    _errors,
    _stored,
    _audit,
    _zdb,
    _events,
    _snapshots,
    _spool,
    _retrieves,
)
