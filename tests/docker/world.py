"""A container on its grid, what was written into it, and the rounds that the tests have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.docker.backends import Backends
from tests.docker.container import Container, Content, Docker

MIB = 1 << 20


def mounted(backends: Backends, volume: str) -> list[str]:
    """The options of `docker create` for a volume and a configuration."""
    return ["-v", f"{volume}:/data", "-v", f"{backends.config}:/data/zstor.toml:ro"]


@dataclass(kw_only=True)
class World:
    """One container with its volume; others beside it and after it."""

    docker: Docker
    backends: Backends
    volume: str
    qsfs: Container
    """Not started."""
    content: Content = field(default_factory=Content)

    def other(self, *options: str, volume: str | None = None) -> Container:
        """One more container, not started, on this volume or another one."""
        return self.docker.container(*options, *mounted(self.backends, volume or self.volume))

    def put(self, count: int = 3, name: str = "f") -> None:
        """So many files of 6 MiB, into the first container."""
        for number in range(count):
            self.content.put(self.qsfs, f"{name}{number}", 6 * MIB)

    def again(self, volume: str | None = None) -> Container:
        """Another container, started: every byte is there."""
        again = self.other(volume=volume).start()
        assert again.hashes() == self.content.expected
        return again

    def elsewhere(self) -> Container:
        """The same on an empty volume: every byte is in the store."""
        return self.again(self.docker.volume())

    def whole(self) -> None:
        """Every byte is there, a stop is clean, and they are there in another container, also stopped."""
        assert self.qsfs.hashes() == self.content.expected
        assert self.qsfs.stop() == 0
        assert self.again().stop() == 0
