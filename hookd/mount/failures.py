"""What rclone's words mean: its text of an error → whose fault it is, and one line with the cure.

Pure. rclone has few exit codes (1 is anything), so its text decides; the patterns are of 1.75 and
its backends (webdav, s3, sftp, ftp, smb). Unknown text is "cannot be used now": trying again is
never wrong where nothing is mounted yet.
"""

from __future__ import annotations

import re

from hookd.admin.words import one_line
from hookd.errors import Exit, RemoteRefused, RemoteUnreachable, UserError
from hookd.log import scrub

_CREDENTIALS = re.compile(
    r"\b401\b|\b403\b|unauthori[sz]ed|forbidden|access ?denied|InvalidAccessKeyId"
    r"|SignatureDoesNotMatch|InvalidToken|ExpiredToken|unable to authenticate|permission denied"
    r"|\b530\b|login incorrect|not logged in|logon failure|invalid_grant|invalid_client|bad password"
    r"|authentication fail|auth.*failed",
    re.IGNORECASE,
)
_CONFIG: tuple[tuple[str, str], ...] = (
    (
        r"use /dav/files/USER endpoint|endpoint instead of /webdav",
        "this rclone takes no Nextcloud URL that ends in /remote.php/webdav; write"
        " .../remote.php/dav/files/USER",
    ),
    (
        r"unknown authority|certificate signed by|self[- ]signed|not trusted",
        "the remote's TLS certificate is signed by nobody this machine trusts; install the CA's"
        " certificate, or name it by RCLONE_CA_CERT",
    ),
    (
        r"certificate is (?:not )?valid for|doesn't contain any IP SANs|certificate name",
        "the remote's TLS certificate is for another name; correct the URL",
    ),
    (
        r"server gave HTTP response to HTTPS client|first record does not look like a TLS",
        "the remote speaks no TLS; write http:// or correct the port",
    ),
    (
        r"HTTP request (?:was sent )?to (?:an )?HTTPS",
        "the remote speaks TLS; write https:// or correct the port",
    ),
    (
        r"unsupported protocol scheme|missing protocol scheme|invalid URL|no host in request"
        r"|invalid port|first path segment in URL",
        "the URL is wrong; write it with http:// or https://",
    ),
    (
        r"\b405\b|method not allowed|XML syntax error|failed to unmarshal|malformed HTTP response",
        "the URL answers, but not as this type of remote; correct the URL or the type",
    ),
    (r"reveal|is it obscured", "a password cannot be read; give it plain"),
    (
        r"directory not found|NoSuchBucket|object not found|\b404\b|bucket does not exist",
        "the path is not on the remote; create it, or correct REMOTE_PATH or the URL",
    ),
    (
        r"didn't find (?:section|backend)|unknown backend|unknown flag|unknown type",
        "rclone does not know this setting; correct it",
    ),
)
_BEFORE_CREDENTIALS = 7
"""So many rows of the table are surer than what looks like a refusal."""

_HUNG_UP = re.compile(r'"http://[^"]*": EOF')
"""An end without an answer: what a server that expects TLS does too."""

_NAMES = re.compile(
    r"^\S+ \S+ (?:ERROR|NOTICE|CRITICAL|INFO) *: [^:\n]*:|\"[^\"\n]*\"|\b\w+://\S+"
    r"|\b(?:lookup|tcp|udp) \S+(?: on \S+)?",
    re.MULTILINE,
)
"""What was asked for and where: a path, a host or a port may look like a status."""

_AWAY = re.compile(
    r"connection refused|no such host|no route to host|network is unreachable|i/o timeout"
    r"|connection reset|server misbehaving",
    re.IGNORECASE,
)
"""Nobody has answered, so nobody has refused anything."""

_CLOCK = re.compile(
    r"RequestTimeTooSkewed|has expired or is not yet valid|certificate has expired|not yet valid",
    re.IGNORECASE,
)


def credentials(text: str) -> bool:
    """Whether the text says that the credentials are refused."""
    said = _NAMES.sub(" ", text)
    refused = _CREDENTIALS.search(said) is not None
    return refused and not (_CLOCK.search(said) or _AWAY.search(said))


def classify(target: str, text: str) -> UserError:
    """The error to raise for what rclone said about `target`. One line, scrubbed."""
    words = _short(text)
    said = _NAMES.sub(" ", text)
    if _CLOCK.search(said):
        return RemoteUnreachable(
            f"{target}: the remote's certificate or clock does not fit this machine's time;"
            f" compare the clocks (rclone: {words})"
        )
    rows = () if _AWAY.search(said) else _CONFIG
    for pattern, cure in rows[:_BEFORE_CREDENTIALS]:
        if re.search(pattern, said, re.IGNORECASE):
            return UserError(f"{target}: {cure} (rclone: {words})", code=Exit.CONFIG)
    if credentials(text):
        return RemoteRefused(
            f"{target}: the remote refuses the credentials; correct user and password (rclone: {words})"
        )
    for pattern, cure in rows[_BEFORE_CREDENTIALS:]:
        if re.search(pattern, said, re.IGNORECASE):
            return UserError(f"{target}: {cure} (rclone: {words})", code=Exit.CONFIG)
    maybe = "; if it speaks TLS, write https://" if _HUNG_UP.search(text) else ""
    return RemoteUnreachable(f"{target}: the remote cannot be used now{maybe} (rclone: {words})")


def _short(text: str) -> str:
    """The last thing said, in one line of at most 300 characters."""
    lines = [line for line in text.splitlines() if line.strip()]
    said = one_line(scrub(lines[-1].strip() if lines else "nothing"))
    return said if len(said) <= 300 else f"{said[:297]}..."
