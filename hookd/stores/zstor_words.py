"""What zstor's error texts mean, and how they are made fit to be shown.

zstor answers with prose only. The table below is what hookd makes of it; a text it does not know
is a temporary error of that one file, which is retried and seen, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hookd.errors import (
    RemoteMissing,
    SourceGone,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)

MAX_DETAIL_CHARS = 500

BLIND_HINT = (
    "zstor refuses writes while a metadata backend was unreachable when it started;"
    " if the backends are up, restart zstor"
)
PANIC_HINT = "a part of zstor has ended, and does not come back; restart zstor"
NAMESPACES_HINT = (
    "zstor does not see the files that hookd sees: do they share mount and PID namespaces and user?"
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a text that holds all of `fragments` (lower case) means."""

    fragments: tuple[str, ...]
    error: type[StoreError]
    hint: str = ""


TABLE: tuple[Meaning, ...] = (
    # actors/zstor.rs, Handler<Retrieve>; absent, or blind (lib.rs: backends that failed to
    # connect at start are left out for good)
    Meaning(("no metadata found",), RemoteMissing),
    # actors/zstor.rs, Handler<Store>, CheckWritable: fewer metadata backends than shards
    Meaning(("metastore is not writable",), StoreUnreachable, BLIND_HINT),
    # zdb_meta.rs CorruptedKey: fewer shards of the metadata than needed, so a partly blind zstor
    Meaning(("key reconstruction failed",), StoreUnreachable, BLIND_HINT),
    # actix: an actor has panicked, and nothing starts it again
    Meaning(("mailbox has closed",), StoreUnreachable, PANIC_HINT),
    # zdb_meta.rs ErrorKind::Zdb, zdb.rs ZdbError: a metadata backend is away
    Meaning(("error during metadata",), StoreUnreachable),
    Meaning(("zdb backend",), StoreUnreachable),
    # zdb.rs: a data backend is away or full, by the words of the redis client and of the kernel
    Meaning(("zdb at ",), StoreUnreachable),
    Meaning(("reconnecting failed",), StoreUnreachable),
    Meaning(("broken pipe",), StoreUnreachable),
    Meaning(("connection refused",), StoreUnreachable),
    # config.rs shard_stores, while it runs: too few data backends answer
    Meaning(("error during configuration",), StoreUnreachable),
    # actors/pipeline.rs StoreFile: realpath of the key is not below `root`
    Meaning(("not in the file tree rooted at",), StorePermanent, "set zstor's root accordingly"),
    # actors/zstor.rs and pipeline.rs: the file, or the folder of its key, is not there for zstor
    Meaning(("could not load file metadata", "no such file"), SourceGone),
    Meaning(("could not create temp file", "no such file"), SourceGone),
    Meaning(("could not open file", "no such file"), SourceGone),
    # actors/pipeline.rs RecoverFile: it cannot follow the staged path
    Meaning(("recovered file parent dir", "no such file"), StorePermanent, NAMESPACES_HINT),
    Meaning(("recovered file parent dir", "permission denied"), StorePermanent, NAMESPACES_HINT),
    Meaning(("could not create output file", "no such file"), StorePermanent, NAMESPACES_HINT),
    Meaning(("could not create output file", "permission denied"), StorePermanent, NAMESPACES_HINT),
)
"""First match wins: "Metastore is not writable: permission denied" is no matter of permissions."""

_PASSWORD = re.compile(r"""(passw\w*["']?[\s:=(]*(?:some\s*\()?\s*["']?)([^\s"',)}\]]+)""", re.I)
_KEY = re.compile(r"\b[0-9a-f]{64}\b", re.I)


class Scrubber:
    """Makes zstor's texts fit to be shown: no secret, one line, `MAX_DETAIL_CHARS` at most."""

    def __init__(self, secrets: Sequence[str]) -> None:
        known = {form for secret in secrets if secret for form in _forms(secret)}
        # the longest first: one secret may be part of another
        self._secrets = sorted(known, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """`text` without what is known or looks like a password or a key."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _KEY.sub("***", _PASSWORD.sub(r"\1***", text))
        text = " ".join(text.split())
        return text if len(text) <= MAX_DETAIL_CHARS else text[: MAX_DETAIL_CHARS - 1] + "…"


def _forms(secret: str) -> tuple[str, str]:
    """As it is, and as Rust's `{:?}` prints it."""
    return secret, secret.replace("\\", "\\\\").replace('"', '\\"')


def understand(operation: str, key: object, text: str, scrub: Scrubber) -> StoreError:
    """The error that zstor's `text` stands for, its detail scrubbed."""
    lowered = text.lower()
    for meaning in TABLE:
        if all(fragment in lowered for fragment in meaning.fragments):
            detail = scrub(text)
            return meaning.error(
                operation, key, f"{detail} ({meaning.hint})" if meaning.hint else detail
            )
    return StoreTemporary(operation, key, scrub(text))
