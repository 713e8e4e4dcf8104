"""How a remote's configuration may be meant: the ways to try, in order.

Pure. Two things cannot be told from the text alone. A password may be plain or obscured already:
obscured ones are base64 without padding, of 16 bytes and more, and so are some plain ones. And a
Nextcloud URL that ends in /remote.php/webdav (as older instructions have it) is refused by rclone
since 1.63 unless uploads go in one piece; its modern form names the user, who may be called
otherwise than they log in.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hookd.errors import ConfigError
from hookd.mount.environment import Remotes

_OLD_NEXTCLOUD = re.compile(r"/remote\.php/webdav(?=/|\Z)")
_MODERN_NEXTCLOUD = re.compile(r"/dav/files/[^/]+")
"""What rclone asks of a URL before it sends a file in pieces."""
_IV_BYTES = 16

NO_LOGIN = frozenset({"crypt"})
"""Types whose password nobody checks: a wrong guess would write what nobody can read."""

Form = Literal["plain", "obscured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One reading of the configuration."""

    passwords: Form
    sections: dict[str, dict[str, str]]
    notice: str = ""
    """What was changed, for the log."""


def ways(remotes: Remotes, form: Literal["auto", "plain", "obscured"]) -> Iterator[Way]:
    """Each reading, the likeliest first. Raises ConfigError where guessing would be dangerous."""
    for passwords in _forms(remotes, form):
        for sections, notice in _urls(remotes.sections):
            yield Way(passwords=passwords, sections=_tuned(sections), notice=notice)


def looks_obscured(text: str) -> bool:
    """Whether rclone could have made this by `rclone obscure`."""
    if len(text) < 22 or not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return False
    try:
        return len(urlsafe_b64decode(text + "=" * (-len(text) % 4))) >= _IV_BYTES
    except (binascii.Error, ValueError):
        return False


def _forms(remotes: Remotes, form: Literal["auto", "plain", "obscured"]) -> tuple[Form, ...]:
    if form != "auto":
        return (form,)
    unclear = [
        (remote, option)
        for remote, option in remotes.passwords()
        if looks_obscured(remotes.sections[remote][option])
    ]
    for remote, option in unclear:
        if remotes.sections[remote].get("type") in NO_LOGIN:
            raise ConfigError(
                "mount.password_form",
                f"the {option} of {remote} may be plain or obscured already, and a wrong guess would"
                ' write what nobody can read; set it to "plain" or "obscured"',
            )
    return ("plain", "obscured") if unclear else ("plain",)


def _urls(
    sections: dict[str, dict[str, str]],
) -> Iterator[tuple[dict[str, dict[str, str]], str]]:
    old = [
        name
        for name, options in sections.items()
        if options.get("type") == "webdav"
        and options.get("vendor") == "nextcloud"
        and options.get("nextcloud_chunk_size") not in ("0", "0B")
        and not _MODERN_NEXTCLOUD.search(options.get("url", ""))
    ]
    if not old:
        yield sections, ""
        return
    named, whole = dict(sections), dict(sections)
    for name in old:
        options = sections[name]
        if (user := options.get("user")) and _OLD_NEXTCLOUD.search(options.get("url", "")):
            url = _OLD_NEXTCLOUD.sub(f"/remote.php/dav/files/{_quoted(user)}", options["url"])
            named[name] = {**options, "url": url}
        whole[name] = {**options, "nextcloud_chunk_size": "0"}
    cure = f"set the URL of {', '.join(old)} to .../remote.php/dav/files/USER"
    if named != sections:
        yield named, f"the Nextcloud URL was taken in its modern form; {cure}"
    yield whole, f"the Nextcloud URL is an old one, large files go up in one piece; {cure}"


def _tuned(sections: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """rclone paces WebDAV at 10 ms a request, all transfers together: about 30 files a second."""
    return {
        name: {"pacer_min_sleep": "1ms", **options} if options.get("type") == "webdav" else options
        for name, options in sections.items()
    }


def _quoted(user: str) -> str:
    from urllib.parse import quote

    return quote(user, safe="@")
