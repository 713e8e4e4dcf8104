"""The bar of `hookd restore` and `hookd verify`: on a terminal only, and gone afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
from collections.abc import Iterator
from typing import TextIO

import pytest

from hookd.admin.bar import Bar


class Terminal(io.TextIOWrapper):
    """The slave side of a pty as stderr; `shown` is what came out of it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        super().__init__(os.fdopen(slave, "wb", buffering=0), write_through=True)

    def shown(self) -> str:
        """What came out so far: the kernel hands it over piece by piece, a moment later."""
        pieces = []
        while select.select([self._master], [], [], 0.5)[0]:
            pieces.append(os.read(self._master, 1 << 20))
        return b"".join(pieces).decode()

    def end(self) -> None:
        self.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield made
    made.end()


def show(on: TextIO) -> None:
    with contextlib.redirect_stderr(on), Bar() as bar:
        bar.show("zdbfs-data", 3, 12, "3/12 files  [b]1 MiB[/b]")
        bar.show("zdbfs-\x1b]0;x", 4, 12, "4/12 files")


def test_on_a_terminal(terminal: Terminal) -> None:
    """What it says is text, whatever is in it: no markup, no escapes of somebody else's."""
    show(terminal)
    shown = terminal.shown()
    assert "4/12 files" in shown and "━" in shown
    assert "\x1b]0;x" not in shown
    assert shown.endswith("\x1b[2K") or "\x1b[?25h" in shown, "the cursor is back"


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_not_wanted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    show(terminal)
    assert terminal.shown() == ""


def test_no_terminal() -> None:
    file = io.StringIO()
    show(file)
    assert file.getvalue() == ""
