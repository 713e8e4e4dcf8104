"""What `hookd status` says of a mount: its view into a headline and labelled lines. Pure."""

from __future__ import annotations

from typing import Any

from hookd.admin.story import Row, Story
from hookd.admin.words import count, duration, one_line, size

View = dict[str, Any]


def tell(view: View) -> Story:
    """The whole screen."""
    headline, tone = _headline(view)
    about = f"hookd mount {view['version']}, pid {view['pid']}, up {duration(view['uptime_s'])}"
    rows = [
        Row("mount", f"{view['mount']['target']} at {view['mount']['mountpoint']}", ""),
        Row(
            "remote",
            view["remote"]["error"] or "answers",
            "bad" if view["remote"]["error"] else "good",
        ),
        Row("uploads", _uploads(view), "warn" if view["uploads"]["failing"] else ""),
        Row("not there", _dirty(view), "pending" if view["dirty"]["files"] else "good"),
        *(Row("", name, "dim") for name in view["dirty"]["names"][:5]),
        Row("cache", _cache(view), ""),
    ]
    if view["mount"]["remounts"]:
        rows.append(
            Row(
                "remounts",
                f"{view['mount']['remounts']}, last: {view['mount']['last_remount']}",
                "warn",
            )
        )
    return Story(
        headline=one_line(headline),
        tone=tone,
        about=about,
        rows=[row._replace(text=one_line(row.text)) for row in rows],
        attention=[one_line(text) for text in (*view["health"]["reasons"], *view["notices"])],
    )


def _headline(view: View) -> tuple[str, str]:
    phase, dirty = view["phase"], view["dirty"]["files"]
    if phase == "running":
        if view["health"]["status"] == "failing":
            return f"The mount needs attention: {view['health']['reasons'][0]}", "bad"
        if not dirty:
            return "Everything written is on the remote", "good"
        tone = "warn" if view["health"]["reasons"] else "good"
        return f"{count(dirty, 'file')} on the way to the remote", tone
    texts = {
        "starting": "Starting: nothing is mounted yet",
        "mounting": "Mounting",
        "resuming": "Uploading what an earlier run left, then ready",
        "remounting": "Not mounted: the mounter is being replaced",
        "draining": "Draining",
        "stopping": "Stopping",
    }
    why = view["waiting_for"].removeprefix(f"{phase}: ")
    waiting = f" ({why})" if why and phase != "remounting" else ""
    return texts[phase] + waiting, "bad" if phase == "remounting" else "warn"


def _uploads(view: View) -> str:
    uploads = view["uploads"]
    text = f"{count(uploads['files'], 'file')}, {size(uploads['bytes'])}"
    text += f", {uploads['in_progress']} on their way"
    if uploads["failing"]:
        why = f": {uploads['why']}" if uploads["why"] else ""
        text += f"; {uploads['failing']} failing{why}"
    return text


def _dirty(view: View) -> str:
    dirty = view["dirty"]
    if not dirty["files"]:
        return "nothing"
    age = duration(dirty["oldest_age_s"] or 0.0)
    return f"{count(dirty['files'], 'file')}, {size(dirty['bytes'])}, the oldest {age} old"


def _cache(view: View) -> str:
    cache = view["cache"]
    room = "" if cache["free_bytes"] is None else f", {size(cache['free_bytes'])} free on its disk"
    return f"{size(cache['bytes'])} in {cache['path']}{room}"
