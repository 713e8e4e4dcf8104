"""Four real zdbs as the grid of a container: each can be stopped and started alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.real.grid import BACKENDS, KEY, PASSWORD, Grid

DATA_DIR = "/data/data/zdbfs-data"


class Backends(Grid):
    """Like Grid, but zstor runs in a container on the host's network."""

    def __init__(self, folder: Path, *, address: str | None = None) -> None:
        """`address`: an IPv6 address of this host that the container is to use."""
        super().__init__(folder)
        self._address = address
        if address is not None:
            self.listen = "::"

    def __exit__(self, *reason: object) -> None:
        """What they held goes too: a run of all tests would not have room for all of it."""
        super().__exit__(*reason)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_zstor(self) -> None:
        """The container does."""

    def stop_zstor(self, *, kill: bool = False) -> None:
        """The container does."""

    def used(self) -> int:
        """Bytes in all data files of all backends (zdb takes room for them in advance)."""
        files = self.folder.glob("*/data/*/d*")
        return sum(path.stat().st_size for path in files)

    def stop_all(self) -> None:
        """All backends away."""
        for number in range(BACKENDS):
            self.stop_backend(number)

    def start_all(self) -> None:
        """All backends back, with what they held."""
        for number in range(BACKENDS):
            self.start_backend(number)

    def _toml(self) -> str:
        text = super()._toml()
        if self._address is not None:
            text = text.replace("127.0.0.1:", f"[{self._address}]:")
        kept = [line for line in text.splitlines() if not line.startswith(("socket", "pid_file"))]
        fixed = [
            'socket = "/var/run/zstor.sock"',
            'zdbfs_mountpoint = "/mnt"',
            f'zdb_data_dir_path = "{DATA_DIR}"',
        ]
        return "\n".join([*fixed, *kept]) + "\n"


__all__ = ["BACKENDS", "KEY", "PASSWORD", "Backends"]
