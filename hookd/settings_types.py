"""Stage configuration, the vocabulary: what a key's type is made of, limits and readers included.

`settings` and the modules of single sections declare their keys with these.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

MAX_SOCKET_BYTES = 107
"""Longest path of a unix socket: sun_path is 108 bytes, the last of them NUL (unix(7))."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", re.ASCII)
_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
}
_TCP = re.compile(r"tcp://\S+:(\d{1,5})", re.ASCII)


class Secret(str):
    """Text whose repr is `***`: a traceback or a printed Config does not give it away."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


# What a key's type carries: `expects` finishes the sentence "X is not ..." for whoever got it
# wrong; `read` turns a raw value into what the type accepts or raises ValueError; its second
# argument says that the value is text of the environment.


def meta(expects: str, read: Callable[[Any, bool], object] | None = None, **limits: Any) -> Meta:
    """What a key's type carries, with msgspec's own `limits`."""
    return Meta(extra={"expects": expects, "read": read}, **limits)


def whole(low: int, high: int) -> Meta:
    """A whole number within limits."""
    return meta(f"a whole number from {low} to {high}", ge=low, le=high)


def seconds(low: float, high: float) -> Meta:
    """A time within limits."""
    return meta(f"a number of seconds from {low:.10g} to {high:.10g}", ge=low, le=high)


def _read_path(value: Any, text: bool) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError
    return Path(value)


def _read_socket(value: Any, text: bool) -> Path:
    path = _read_path(value, text)
    if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
        raise ValueError
    return path


def _read_size(value: Any, text: bool) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError
    whole, _, fraction = match[1].partition(".")
    return int(whole + fraction) * _UNITS[match[2]] // 10 ** len(fraction)


def _read_address(value: Any, text: bool) -> object:
    match = _TCP.fullmatch(value) if isinstance(value, str) else None
    local = isinstance(value, str) and value.startswith("unix:///")
    if not (local or (match and 1 <= int(match[1]) <= 65535)):
        raise ValueError
    return value


def _read_command(value: Any, text: bool) -> object:
    if isinstance(value, str) and not shlex.split(value):  # raises ValueError for a quote left open
        raise ValueError
    return value


def _read_secret(value: Any, text: bool) -> object:
    return Secret(value) if isinstance(value, str) else value


def _read_switch(value: Any, text: bool) -> object:
    if not text:
        return value
    return {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower(), value)


def _read_list(value: Any, text: bool) -> object:
    if not text:
        return value
    return [item for item in map(str.strip, value.split(",")) if item]


def _read_users(value: Any, text: bool) -> object:
    items: Any = _read_list(value, text)
    return [int(item) if item.isdecimal() else item for item in items] if text else items


AbsolutePath = Annotated[Path, meta("an absolute path", _read_path)]
SocketPath = Annotated[
    Path,
    meta(
        f"an absolute path of at most {MAX_SOCKET_BYTES} bytes, the limit of a unix socket",
        _read_socket,
    ),
]
Switch = Annotated[bool, meta("true or false", _read_switch)]
Text = Annotated[str, meta("text of at least one character", min_length=1)]
Command = Annotated[
    str,
    meta(
        'a command as a shell would split it, such as "sv restart zstor"',
        _read_command,
        min_length=1,
    ),
]
Password = Annotated[Secret, meta("text", _read_secret)]
Address = Annotated[str, meta('"tcp://host:port" or "unix:///path"', _read_address)]
Port = Annotated[int, whole(1, 65535)]
Size = Annotated[
    int,
    meta(
        'a size of at least 1 byte: a whole number, or text such as "512MiB" or "4GiB"',
        _read_size,
        ge=1,
        le=2**63 - 1,
    ),
]
Namespaces = Annotated[
    tuple[Annotated[str, Meta(pattern=r"\A[^/\0]+\Z")], ...],
    meta("a list of namespace names", _read_list),
]
Users = Annotated[
    tuple[Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=0, le=2**32 - 2)], ...],
    meta("a list of user names and numeric user ids", _read_users),
]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every table of the file has in common."""
