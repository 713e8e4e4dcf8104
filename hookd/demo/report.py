"""What an act has measured and claimed. Plain data: `check` fills it, `screen` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """One namespace of one act."""

    name: str
    announced: int
    """Files that hooks named."""
    stored: int
    """Files that the store has."""
    size_bytes: int
    """Of the stored ones."""
    verified: int
    """Stored files whose BLAKE2b is that of zdb's own file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Hook calls, as the journal has them."""

    socket: int
    """Taken by the daemon at once."""
    spool: int
    """Kept by the shim while the daemon was away."""
    duplicates: int
    """Of an event that was known already: answered, and not done again."""

    @property
    def total(self) -> int:
        """Events that are kept; each once."""
        return self.socket + self.spool


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that must be so."""

    text: str
    holds: bool


@dataclass(slots=True)
class Report:
    """One act."""

    title: str
    namespaces: list[Namespace] = field(default_factory=list)
    events: Events | None = None
    mishaps: list[tuple[str, str]] = field(default_factory=list)
    """(what went wrong on purpose, what became of it)."""
    claims: list[Claim] = field(default_factory=list)
    seconds: float = 0.0

    def claim(self, text: str, holds: bool) -> None:
        """Something must be so; `text` is the line to print if it is not."""
        self.claims.append(Claim(text, holds))

    @property
    def broken(self) -> list[str]:
        """The claims that do not hold."""
        return [claim.text for claim in self.claims if not claim.holds]
