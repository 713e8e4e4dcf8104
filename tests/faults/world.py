"""A zdb, a daemon and a directory store in one folder, and the invariant that ties them together.

What must hold at any moment (`World.check_promises`): whatever a hook promised is in the store in
that version or a newer one, or a job in the journal, or an event in the spool stands for it. What
must hold at the end (`World.check_end`): it is in the store, and nothing is left anywhere. And all
the while (`Watch`): what is stored under a name is a content that zdb's file once had, and never
one from before the one that was seen there last.
"""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

from hookd.digest import digest_of
from tests.fakes.zdb_files import answers
from tests.faults.history import SKIPPED, UNKNOWN, RecordedZdb, broken_promises
from tests.faults.supervised import CLOSED, Supervised, Watch


class World(Supervised):
    """All of it below one folder."""

    def __init__(
        self, folder: Path, shim: Path, *, seed: int = 0, datasize: int = 4096, **settings: object
    ) -> None:
        """`settings`: keys of the configuration, `__` for the dot."""
        super().__init__(folder, shim, **{"zdb__skip_namespaces": [SKIPPED], **settings})
        self.zdb = RecordedZdb.make(
            folder,
            shim,
            {**self.daemon.environment, "HOOKD_WAIT_S": "120"},
            seed=seed,
            datasize=datasize,
        )
        self._versions: dict[str, int] = {}
        self.watch = Watch(self.daemon.store, self._compare)
        self.watch.start()

    def close(self) -> None:
        """End everything; no daemon has warned of anything unexpected."""
        self.zdb.kill()
        self.daemon.close(check=False)
        self.zdb.finish_hooks()
        self.watch.end()
        self.daemon.close()

    def drain(self) -> None:
        """SIGTERM to a daemon that has nothing to wait for; it ends with 0."""
        self.zdb.finish_hooks()
        code = self.daemon.stop(signal.SIGTERM)
        assert code == 0, f"ended with {code}:\n{self.daemon.log.read_text()}"

    def until_stored(self, *names: str) -> None:
        """Until these files are in the store as they are on disk."""
        for name in names:
            self.until(partial(self._is_stored, name), f"{name} is not stored")

    def _is_stored(self, name: str) -> bool:
        return self.stored(name) == (self.daemon.folder / name).read_bytes()

    # -- the invariant -------------------------------------------------------------------------

    def _compare(self, name: str, content: bytes) -> str | None:
        """What is wrong with what is stored under a name now."""
        version = self.zdb.history.version(name, content)
        ends = time.monotonic() + 1
        while version is None and time.monotonic() < ends:
            time.sleep(0.01)  # zdb has written it, and notes it right now
            version = self.zdb.history.version(name, content)
        before = self._versions.get(name, -1)
        if version is None:
            return f"{name}: {len(content)} bytes that zdb never had there"
        self._versions[name] = max(before, version)
        return f"{name}: went back from version {before} to {version}" if version < before else None

    def check_promises(self) -> None:
        """Each promise is stored, or something durable stands for it. While no daemon runs."""
        required, spooled, owed = self.zdb.required(), self.spooled(), self.owed()
        digests = {
            name: [None if content is None else digest_of(content) for content in contents]
            for name, contents in owed.items()
        }
        look = partial(
            broken_promises,
            self.zdb,
            required=required,
            spooled=spooled,
            owed=digests,
            stored=self.stored,
        )
        broken, ends = look(), time.monotonic() + 1
        while any(UNKNOWN in line for line in broken) and time.monotonic() < ends:
            time.sleep(0.01)  # see `_compare`
            broken = look()
        assert not broken, "\n".join([*broken, self.daemon.log.read_text()])

    def check_end(self) -> None:
        """After a drain that ended with 0."""
        self.watch.look()
        assert not self.watch.wrong, "\n".join([*self.watch.wrong, self.daemon.log.read_text()])
        self._check_store()
        if self.zdb.removed:
            self.check_journal(closed=(*CLOSED, "withdrawn"), outcomes=("accepted", "held"))
        else:
            self.check_journal()
        self.check_leftovers()

    def _check_store(self) -> None:
        stored, local = self.daemon.stored(), self.daemon.local()
        proven = {name for (name,) in self.rows("SELECT key FROM ledger WHERE retired_at IS NULL")}
        for name in stored.keys() - proven:
            if name.split("/")[1] in self.zdb.removed:  # of the namespace that was deleted
                del stored[name]
                (self.daemon.store / name).unlink()
        for name, least in sorted(self.zdb.required().items()):
            version = self.zdb.history.version(name, stored.get(name, b""))
            assert version is not None, f"{name} is not stored"
            assert version >= least, f"{name}: {least} was acknowledged, {version} is stored"
        kept = {name: data for name, data in local.items() if name.split("/")[1] != SKIPPED}
        assert sorted(stored) == sorted(kept)
        assert [name for name in kept if stored[name] != kept[name]] == []
        truth = {name: keys for name, keys in self.zdb.truth.items() if name != SKIPPED}
        found = answers(self.daemon.store / "index", self.daemon.store / "data")
        assert {name: keys for name, keys in found.items() if keys} == truth
