"""Gives a fetched file its place: owner and mode as zdb's, fsynced, never over what is there. Blocking.

Used for a data file that zdb asks back and for the files of a restore.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from hookd.digest import digest_fd
from hookd.errors import ChecksumMismatch
from hookd.files import FileKey

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)
"""Another file system, or one without links."""


def check(key: FileKey, target: Path, expected: bytes) -> int:
    """Hash and fsync what was fetched; its length. Raises ChecksumMismatch, OSError."""
    handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        digest, size = digest_fd(handle)
        if digest != expected:
            raise ChecksumMismatch(
                "get", key, f"retrieved {size} bytes of {digest.hex()}, expected {expected.hex()}"
            )
        os.fsync(handle)
        return size
    finally:
        os.close(handle)


def put_in_place(target: Path, live: Path, *, replace: bool = False) -> bool:
    """Give the fetched file zdb's owner and mode and make it `live`; False: another file is there.

    A link fails where a file exists, a rename would replace it: what zdb made meanwhile stays, unless it
    is to be replaced (a blank file of zdb's own making).
    """
    folder = live.parent
    owner = folder.stat()
    os.chmod(target, 0o600)
    if os.geteuid() == 0:
        os.chown(target, owner.st_uid, owner.st_gid)
    with os.scandir(folder) as entries:  # the first will do, of perhaps thousands
        sibling = next((each for each in entries if each.name.startswith(live.name[:1])), None)
    if sibling is not None:
        os.chmod(target, sibling.stat().st_mode & 0o777)
    if replace:
        os.replace(target, live)
    else:
        try:
            os.link(target, live)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not _copy_beside(target, live):
                return False
    sync_folder(folder)
    return True


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, like: Path) -> None:
    """A namespace's folder, durable, with the owner and mode of the root that it lies in."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    found = like.stat()
    os.chmod(folder, found.st_mode & 0o777)
    if os.geteuid() == 0:
        os.chown(folder, found.st_uid, found.st_gid)
    sync_folder(like)


def _copy_beside(target: Path, live: Path) -> bool:
    """Across file systems: a copy under a name that zdb never reads, then the link."""
    beside = live.with_name(f".hookd-{live.name}.{os.getpid()}")
    try:
        shutil.copyfile(target, beside)
        shutil.copystat(target, beside)
        if os.geteuid() == 0:
            owner = target.stat()
            os.chown(beside, owner.st_uid, owner.st_gid)
        with beside.open("rb") as handle:
            os.fsync(handle.fileno())
        try:
            os.link(beside, live)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS[1:]:
                raise
            # no links here; zdb is frozen and makes nothing meanwhile
            if os.path.lexists(live):
                return False
            os.rename(beside, live)
        return True
    finally:
        beside.unlink(missing_ok=True)
