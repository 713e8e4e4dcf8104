"""The fake zdb with nobody at its hook: a quick way to real-looking files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

from tests.fakes.zdb import Call, FakeZdb


class _Gone:
    """The process of a hook that ended with 0."""

    def poll(self) -> int:
        return 0

    def wait(self, timeout: float | None = None) -> int:
        return 0


class SilentZdb(FakeZdb):
    """Its hooks call nothing and succeed."""

    @classmethod
    def at(cls, folder: Path, *, datasize: int = 50_000, seed: int = 1) -> SilentZdb:
        """Over `folder/index` and `folder/data`, which are made."""
        made = cls(folder, shim=Path("/bin/true"), environment={}, datasize=datasize, seed=seed)
        for root in (made.index, made.data):
            root.mkdir(parents=True, exist_ok=True)
        return made

    def start_hook(self, name: str, *arguments: str) -> Call:
        call = Call((name, self.id, *arguments), cast("subprocess.Popen[bytes]", _Gone()))
        self.calls.append(call)
        return call
