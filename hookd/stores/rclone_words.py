"""What rclone's error texts mean, and how they are made fit to be shown.

rclone answers with prose that it passes on from its backends. The table below is what hookd makes
of it; a text it does not know is a temporary error of that one file, which is retried and seen.
Recorded with rclone 1.75.2 against real and made-up servers; the backend is named where it matters.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hookd.errors import (
    RemoteMissing,
    SourceChanged,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.stores.rclone_settings import SECRET_NAMES, secret_options
from hookd.stores.zstor_words import Scrubber

REFUSED_HINT = "the remote refuses the credentials: correct them in rclone's configuration"
FULL_HINT = "the remote is full or its quota is used up: make room there"
BUSY_HINT = "the remote asks for patience"
CONFIG_HINT = "rclone's configuration is wrong: correct it and restart hookd"
CLOCK_HINT = "set this machine's clock"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a text that matches `pattern` (letter case aside) means."""

    pattern: str
    error: type[StoreError]
    hint: str = ""


TABLE: tuple[Meaning, ...] = (
    # local: the source's size or time changed while rclone read it
    Meaning(r"can't copy - source file is being updated", SourceChanged),
    # -- full ----------------------------------------------------------------------------------
    # webdav 507 "unchunked simple update failed: ...: 507 Insufficient Storage"
    Meaning(r": 507\b|insufficient.?storage", StoreUnreachable, FULL_HINT),
    # local "write /x: no space left on device", "disk quota exceeded"
    Meaning(r"no space left on device|disk quota exceeded", StoreUnreachable, FULL_HINT),
    # s3 QuotaExceeded and XMinioStorageFull, drive storageQuotaExceeded, onedrive quotaLimitReached
    Meaning(
        r"quota.?(has been )?(exceeded|limit.?reached)|storage.?full", StoreUnreachable, FULL_HINT
    ),
    # -- patience ------------------------------------------------------------------------------
    # webdav "429 Too Many Requests"; s3 SlowDown and RequestLimitExceeded; drive rateLimitExceeded
    Meaning(
        r": 429\b|too.?many.?requests|slow.?down|(rate|request).?limit.?exceeded",
        StoreUnreachable,
        BUSY_HINT,
    ),
    # -- credentials ---------------------------------------------------------------------------
    # s3 RequestTimeTooSkewed: a refusal that no credentials cure
    Meaning(r"requesttimetooskewed", StoreUnreachable, CLOCK_HINT),
    # webdav "401 Unauthorized", "403 Forbidden"; s3 "StatusCode: 403 ... api error Forbidden"
    Meaning(r": 40[13]\b|unauthorized|\bforbidden\b", StoreUnreachable, REFUSED_HINT),
    Meaning(
        r"access.?denied|invalidaccesskeyid|signaturedoesnotmatch|expiredtoken|invalid_grant"
        r"|couldn't fetch token",
        StoreUnreachable,
        REFUSED_HINT,
    ),
    # sftp "ssh: handshake failed: ssh: unable to authenticate", ftp "530 Login incorrect"
    Meaning(r"unable to authenticate|: 530\b|login incorrect", StoreUnreachable, REFUSED_HINT),
    # -- this one file -------------------------------------------------------------------------
    # webdav "unchunked simple update failed: ...: 413 Request Entity Too Large"; s3 EntityTooLarge
    Meaning(r": 413\b|entity.?too.?large|file too large", StorePermanent),
    Meaning(r"file name too long|name is too long|invalid argument", StorePermanent),
    # NewObject, ListJSON; before "not found" of what is configured
    Meaning(r"object not found|directory not found", RemoteMissing),
    # webdav "423 Locked": somebody has it open there
    Meaning(r": 423\b", StoreTemporary),
    # rclone's own check of what it has just copied
    Meaning(r"corrupted on transfer", StoreTemporary),
    # s3 with a folder in the bucket: what it makes of a 403 at its first look (no credentials, no
    # bucket), and of a path that is an object
    Meaning(
        r"is a file not a directory",
        StoreUnreachable,
        "the remote's path is a file, or the credentials or the bucket are wrong",
    ),
    # -- configuration -------------------------------------------------------------------------
    Meaning(r"didn't find section in config file|is it obscured\?", StoreUnreachable, CONFIG_HINT),
    Meaning(
        r"didn't find backend called|failed to (load|make|create).*config",
        StoreUnreachable,
        CONFIG_HINT,
    ),
    Meaning(r"nosuchbucket|bucket does not exist", StoreUnreachable, "make the bucket"),
    # -- the remote as a whole -----------------------------------------------------------------
    # Go's net: "dial tcp 127.0.0.1:9: connect: connection refused", "lookup x: no such host"
    Meaning(
        r"connection refused|connection reset|broken pipe|no such host|no route to host"
        r"|network is unreachable|host is down|i/o timeout|deadline exceeded|timed? ?out"
        r"|server closed|unexpected eof|: eof$|closed network connection|temporary failure",
        StoreUnreachable,
    ),
    Meaning(r"\bdial (tcp|unix)|couldn't connect|tls: |x509: |certificate", StoreUnreachable),
    # webdav "500 Internal Server Error"; s3 "StatusCode: 503", "StatusCode: 0"
    Meaning(r": 50[0234]\b|internal.?error|service.?unavailable|statuscode: 0", StoreUnreachable),
    # local
    Meaning(
        r"read-only file system|input/output error|stale (nfs )?file handle|permission denied"
        r"|transport endpoint is not connected|operation not permitted",
        StoreUnreachable,
    ),
)
"""First match wins."""

_COMPILED = tuple((re.compile(meaning.pattern, re.IGNORECASE), meaning) for meaning in TABLE)

_LOGIN = re.compile(r"(\w://)[^\s/@\"']+@")
_PARAMETER = re.compile(
    r"([?&;](?:[\w-]*(?:signature|token|key|secret|credential|pass)[\w-]*|sig|sv|auth)=)[^\s&\"']+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b((?:bearer|basic) )[\w+/=._~-]{6,}", re.IGNORECASE)


class RcloneScrubber(Scrubber):
    """Makes rclone's texts fit to be shown: no secret, one line, bounded."""

    def __call__(self, text: str) -> str:
        """`text` without what is known or looks like a password, a key or a token."""
        text = _HEADER.sub(r"\1***", _PARAMETER.sub(r"\1***", _LOGIN.sub(r"\1***@", text)))
        return super().__call__(text)


def secrets_of(remote: str, environ: Mapping[str, str], config: Path | None) -> tuple[str, ...]:
    """What rclone was told and nobody else is to be: of the remote's connection string, of the
    environment, and of the configuration file if it can be read. Blocking."""
    found = set(secret_options(remote))
    for name, value in environ.items():
        if name.startswith("RCLONE_") and SECRET_NAMES.search(name.lower()):
            found.add(value)
    if config is not None:
        found.update(_of_file(config))
    found.discard("")
    long_enough = {each for each in found if len(each) > 3}
    return tuple(sorted(long_enough | {quote(each, safe="") for each in long_enough}))


def _of_file(config: Path) -> Iterator[str]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True)
    try:
        parser.read_string(config.read_text("utf-8"))
    except (OSError, ValueError, configparser.Error):
        return  # encrypted or unreadable: then nothing of it is known here
    for section in parser.sections():
        for name, value in parser.items(section):
            if value and SECRET_NAMES.search(name):
                yield value


def understand(operation: str, key: object, text: str, scrub: Scrubber) -> StoreError:
    """The error that rclone's `text` stands for, its detail scrubbed."""
    for pattern, meaning in _COMPILED:
        if pattern.search(text):
            detail = scrub(text)
            hinted = f"{detail} ({meaning.hint})" if meaning.hint else detail
            return meaning.error(operation, key, hinted)
    return StoreTemporary(operation, key, scrub(text))
