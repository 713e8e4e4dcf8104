"""Names as rclone's remote control wants them, and back.

rclone knows a name in one standard form, in which a character that no name may have anywhere has
another one stand for it (lib/encoder `Standard`: controls, DEL, "/", and a name of dots alone), and
U+201B before a character says that it is meant itself. Each backend turns that form into what its
remote can hold. A name that is not brought into the form first is stored under another name.
"""

from __future__ import annotations

import re

_QUOTE = "\u201b"
_DOT = "\uff0e"
_CONTROLS = {chr(code): chr(0x2400 + code) for code in range(0x20)} | {"\x7f": "\u2421"}
_STANDS_FOR = {symbol: char for char, symbol in _CONTROLS.items()} | {"\uff0f": "/"}
_SYMBOLS = "".join(_STANDS_FOR)
_TO_ENCODE = re.compile(f"[{_QUOTE}\x00-\x1f\x7f{_SYMBOLS}]")
_TO_DECODE = re.compile(f"{_QUOTE}(.)|([{_SYMBOLS}])", re.DOTALL)
_DOTS = {
    ".": _DOT,
    "..": _DOT * 2,
    _DOT: _QUOTE + _DOT,
    _DOT * 2: (_QUOTE + _DOT) * 2,
}


def to_standard(name: str) -> str:
    """One component of a path, in rclone's standard form."""
    if name in _DOTS:
        return _DOTS[name]
    return _TO_ENCODE.sub(lambda found: _CONTROLS.get(found[0], _QUOTE + found[0]), name)


def from_standard(name: str) -> str:
    """The inverse of `to_standard`."""
    for char, standard in _DOTS.items():
        if name == standard:
            return char
    return _TO_DECODE.sub(lambda found: found[1] or _STANDS_FOR[found[2]], name)
