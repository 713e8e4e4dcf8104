"""Every error hookd raises on purpose, in one tree.

    HookdError
     ├─ UserError                 one clear line and an exit code, no traceback
     │   ├─ ConfigError           the key that is wrong, and what it should be      (78)
     │   ├─ RemoteRefused         the remote does not take these credentials        (77)
     │   └─ RemoteUnreachable     the remote cannot be used now; later perhaps      (69)
     ├─ FrameError                bytes on the wire or in the spool that are no frame
     ├─ EventMalformed            a known hook with arguments zdb never sends
     ├─ PathRefused               a path outside the roots, or not named like a zdb file
     ├─ NoRoom                    the staging folder is at its limit, or its disk is full
     ├─ ZdbError
     │   ├─ ZdbUnreachable        nobody answers at zdb's address in time
     │   └─ ZdbRefused            zdb answered with an error
     ├─ MountUnusable             a mount of zdbfs does not answer, or is none
     ├─ JournalError
     │   ├─ JournalCorrupt        the database is damaged: move aside and rebuild
     │   └─ JournalUnavailable    nothing can be committed now (disk full, I/O error)
     └─ StoreError                operation, key and detail; classified by the store itself
         ├─ StoreUnreachable      the store as a whole: probe it, do not storm it
         ├─ StoreTemporary        this file, now: retry with backoff, forever
         │   ├─ SourceChanged     the local file changed while it was stored
         │   └─ ChecksumMismatch  the store's own checksum is not ours
         ├─ StorePermanent        no retry will help: quarantine
         │   ├─ SourceGone        the local file is not there any more
         │   ├─ Conflict          a sealed file is stored with other content
         │   └─ NamespaceHeld     the local files were judged bogus: nothing of them is stored
         └─ RemoteMissing         the store says it has no such file

Exit codes follow sysexits where it has one, and the fixed contract of the shim.
"""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a hookd process ends with."""

    OK = 0
    """Done; for `hookd serve`: drained, nothing left."""
    FAILED = 1
    """The thing asked for was tried and failed."""
    USAGE = 2
    """The command line is not one hookd understands (argparse's own code)."""
    UNAVAILABLE = 69
    """The daemon or the store cannot be reached."""
    SOFTWARE = 70
    """hookd stopped because of a fault of its own or of its journal's disk."""
    TEMPFAIL = 75
    """Stopped with work kept in the journal."""
    NOPERM = 77
    """Refused: credentials or ownership."""
    CONFIG = 78
    """Bad configuration; the line on stderr names the key."""


class HookdError(Exception):
    """Root of the tree."""


class UserError(HookdError):
    """A mistake of whoever called: `message` is the line to print, `code` what to exit with."""

    def __init__(self, message: str, *, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


class ConfigError(UserError):
    """`key` (dotted, as in the TOML) is wrong for `reason`, which also says what to do."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}", code=Exit.CONFIG)
        self.key = key
        self.reason = reason


class RemoteRefused(UserError):
    """The remote of a mount does not take these credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Exit.NOPERM)


class RemoteUnreachable(UserError):
    """The remote of a mount cannot be used now."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Exit.UNAVAILABLE)


class FrameError(HookdError):
    """These bytes are no frame; the message says what was read and what was expected."""


class EventMalformed(HookdError):
    """A hook that zdb is known to send, with arguments that it never sends."""


class PathRefused(HookdError):
    """`path` does not name a zdb file under the configured roots, for `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path!r} refused: {reason}")
        self.path = path
        self.reason = reason


class NoRoom(HookdError):
    """The staging folder cannot take `size_bytes` more."""

    def __init__(self, detail: str, *, size_bytes: int = 0) -> None:
        super().__init__(detail)
        self.size_bytes = size_bytes


class ZdbError(HookdError):
    """Root of what a call to zdb raises; the message holds no password."""


class ZdbUnreachable(ZdbError):
    """Nobody answers at zdb's address, or not in time."""


class ZdbRefused(ZdbError):
    """zdb answered with an error: the message is its text."""


class MountUnusable(HookdError):
    """zdbfs could not be told to write out its cache; the message names the mount and says why."""

    def __init__(self, detail: str, *, hangs: bool = False) -> None:
        super().__init__(detail)
        self.hangs = hangs
        """Whether it may still come to an end."""


class JournalError(HookdError):
    """Root of what the journal raises."""


class JournalCorrupt(JournalError):
    """The database is damaged beyond what SQLite repairs by itself."""


class JournalUnavailable(JournalError):
    """Nothing can be committed now; what was not committed was not acknowledged."""


class StoreError(HookdError):
    """`operation` on `key` failed: `detail` in the store's words, scrubbed of secrets."""

    error_class = "store"
    permanent = False

    def __init__(self, operation: str, key: object, detail: str) -> None:
        super().__init__(f"{operation} {key}: {detail}")
        self.operation = operation
        self.key = str(key)
        self.detail = detail


class StoreUnreachable(StoreError):
    """The store as a whole does not work now."""

    error_class = "unreachable"


class StoreTemporary(StoreError):
    """This file cannot be handled now; later it may."""

    error_class = "temporary"


class SourceChanged(StoreTemporary):
    """The local file changed while it was read."""

    error_class = "changed"


class ChecksumMismatch(StoreTemporary):
    """What the store says it holds is not what was given to it."""

    error_class = "checksum"


class StorePermanent(StoreError):
    """No retry will help until somebody acts."""

    error_class = "permanent"
    permanent = True


class SourceGone(StorePermanent):
    """The local file (or its namespace folder) is not there any more."""

    error_class = "gone"


class Conflict(StorePermanent):
    """A sealed file is in the store with other content; neither is overwritten."""

    error_class = "conflict"


class NamespaceHeld(StorePermanent):
    """The namespace takes no stores until its local files are whole again."""

    error_class = "held"


class RemoteMissing(StoreError):
    """The store says it has no such file. Proof only beside `Store.prove_absence`."""

    error_class = "missing"
