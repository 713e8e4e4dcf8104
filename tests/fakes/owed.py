"""Jobs and ledger entries that a test begins with."""

from __future__ import annotations

import asyncio
from typing import Any

from hookd.digest import digest_of
from hookd.files import FileKey
from hookd.journal import Job, LedgerEntry
from tests.fakes.rig import Rig


async def proven(found: Rig, key: FileKey, content: bytes, *, sealed: bool = False) -> Job:
    """`key` was stored with this content earlier."""
    job = Job(key=key)
    entry = LedgerEntry(
        key=key,
        size_bytes=len(content),
        digest=digest_of(content),
        stored_at=1.0,
        sealed=sealed,
    )
    await asyncio.gather(found.journal.add_jobs([job]), found.journal.settle(job, entry))
    found.scheduler.remote(key, len(content), sealed=sealed)
    found.store.content[key] = content
    return job


async def frozen(found: Rig, key: FileKey, content: bytes, **fields: Any) -> Job:
    """A job with a snapshot of this content, committed and in line."""
    found.write(key, content)
    [made] = found.staging.freeze([found.roots.path(key)])
    assert made is not None
    values: dict[str, Any] = {
        "staged": made.staged,
        "size_bytes": made.size_bytes,
        "digest": made.digest,
        "content": made.content,
    }
    return await found.owe(key, **values | fields)
