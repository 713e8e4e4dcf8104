"""`hookd` that takes events and stores nothing: for measuring intake alone."""

from __future__ import annotations

import sys
from typing import Any

from hookd.dispatcher import Dispatcher

_init = Dispatcher.__init__


def _paused(self: Dispatcher, **arguments: Any) -> None:
    _init(self, **arguments)
    self.paused = True


if __name__ == "__main__":
    Dispatcher.__init__ = _paused  # type: ignore[method-assign]
    from hookd.cli import main

    sys.exit(main())
