"""What rclone's texts mean: recorded from rclone 1.75.2, and what is hidden of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd.errors import (
    RemoteMissing,
    SourceChanged,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.stores.rclone_words import (
    BUSY_HINT,
    CLOCK_HINT,
    CONFIG_HINT,
    FULL_HINT,
    REFUSED_HINT,
    TABLE,
    RcloneScrubber,
    secrets_of,
    understand,
)

S3 = (
    "operation error S3: ListObjectsV2, https response error StatusCode: {}, RequestID: , HostID: ,"
    " api error {}"
)
RECORDED: list[tuple[str, type[StoreError], str]] = [
    ("read metadata failed: no: 401 Unauthorized", StoreUnreachable, REFUSED_HINT),
    ("read metadata failed: no: 403 Forbidden", StoreUnreachable, REFUSED_HINT),
    ("unchunked simple update failed: no: 423 Locked", StoreTemporary, ""),
    ("read metadata failed: no: 429 Too Many Requests", StoreUnreachable, BUSY_HINT),
    ("read metadata failed: no: 500 Internal Server Error", StoreUnreachable, ""),
    ("couldn't list files: no: 503 Service Unavailable", StoreUnreachable, ""),
    ("unchunked simple update failed: no: 507 Insufficient Storage", StoreUnreachable, FULL_HINT),
    ("unchunked simple update failed: no: 413 Request Entity Too Large", StorePermanent, ""),
    ("read metadata failed: no: 400 Bad Request", StoreTemporary, ""),
    ("Update mkParentDir failed: no: 404 Not Found", StoreTemporary, ""),
    (
        'couldn\'t list files: Propfind "http://127.0.0.1:9/data/": dial tcp 127.0.0.1:9: connect:'
        " connection refused",
        StoreUnreachable,
        "",
    ),
    (
        'Propfind "http://nowhere.invalid/": dial tcp: lookup nowhere.invalid on 10.0.0.1:53:'
        " no such host",
        StoreUnreachable,
        "",
    ),
    (
        'Propfind "https://127.0.0.1:1/": tls: first record does not look like a TLS handshake',
        StoreUnreachable,
        "",
    ),
    (S3.format(403, "AccessDenied: Access Denied"), StoreUnreachable, REFUSED_HINT),
    (S3.format(403, "Forbidden: Forbidden"), StoreUnreachable, REFUSED_HINT),
    (S3.format(403, "InvalidAccessKeyId: x"), StoreUnreachable, REFUSED_HINT),
    (S3.format(403, "SignatureDoesNotMatch: x"), StoreUnreachable, REFUSED_HINT),
    (S3.format(403, "QuotaExceeded: quota"), StoreUnreachable, FULL_HINT),
    (S3.format(507, "XMinioStorageFull: full"), StoreUnreachable, FULL_HINT),
    (S3.format(507, "InsufficientStorage: Insufficient Storage"), StoreUnreachable, FULL_HINT),
    (S3.format(403, "RequestTimeTooSkewed: skew"), StoreUnreachable, CLOCK_HINT),
    (S3.format(503, "SlowDown: reduce"), StoreUnreachable, BUSY_HINT),
    (S3.format(503, "ServiceUnavailable: Service Unavailable"), StoreUnreachable, ""),
    (S3.format(404, "NoSuchBucket: x"), StoreUnreachable, "make the bucket"),
    ("is a file not a directory", StoreUnreachable, "credentials"),
    ('didn\'t find section in config file ("nope")', StoreUnreachable, CONFIG_HINT),
    ("input too short when revealing password - is it obscured?", StoreUnreachable, CONFIG_HINT),
    ("failed to find object: object not found", RemoteMissing, ""),
    ("error in ListJSON: directory not found", RemoteMissing, ""),
    ("write /srv/x/d0: no space left on device", StoreUnreachable, FULL_HINT),
    ("mkdir /srv/x: read-only file system", StoreUnreachable, ""),
    ("open /srv/x: file name too long", StorePermanent, ""),
    (
        "can't copy - source file is being updated (size changed from 1 to 2)",
        SourceChanged,
        "",
    ),
    ("something that nobody has seen yet", StoreTemporary, ""),
]


@pytest.mark.parametrize(("text", "error", "hint"), RECORDED, ids=lambda value: str(value)[-40:])
def test_recorded(text: str, error: type[StoreError], hint: str) -> None:
    """Each text has its class, keeps its words, and says what to do."""
    found = understand("put", "data/ns/d0", text, RcloneScrubber(()))
    assert type(found) is error
    assert found.detail.startswith(text.replace("password - ", "password *** "))
    assert hint in found.detail


def test_numbers_in_names_are_no_status() -> None:
    """A file or a port that is called like an HTTP status."""
    for text in (
        "x /data/401/d507: strange",
        "127.0.0.1:403/d429 strange",
        "read 500 of 507 bytes",
    ):
        assert type(understand("put", "k", text, RcloneScrubber(()))) is StoreTemporary


def test_every_row_can_match() -> None:
    """No pattern is empty, which would swallow what follows it."""
    scrub = RcloneScrubber(())
    assert type(understand("put", "k", "", scrub)) is StoreTemporary
    assert len({meaning.pattern for meaning in TABLE}) == len(TABLE)


def test_secrets_are_found_everywhere(tmp_path: Path) -> None:
    """In the connection string, the environment and the file; also as they look in an address."""
    config = tmp_path / "rclone.conf"
    config.write_text(
        "[nas]\ntype = webdav\nurl = http://h/\nuser = me\npass = obscured+one\n"
        '[s]\ntype = s3\nsecret_access_key = k/e%y\ntoken = {"access_token":"tok en"}\n'
    )
    environ = {"RCLONE_CONFIG_X_PASS": "env-pass", "RCLONE_CONFIG_X_USER": "someone", "PASS": "no"}
    found = secrets_of(':sftp,host=h,pass="in string":x', environ, config)
    for secret in ("obscured+one", "obscured%2Bone", "k/e%y", "env-pass", "in string"):
        assert secret in found
    assert not {"me", "webdav", "someone", "no", "h"} & set(found)
    scrub = RcloneScrubber(found)
    shown = scrub(f"Put http://h/?x=obscured%2Bone env-pass in string k/e%y {config}")
    assert shown == f"Put http://h/?x=*** *** *** *** {config}"


def test_unreadable_configuration_is_no_error(tmp_path: Path) -> None:
    """Encrypted, absent, or a folder: nothing of it is known."""
    encrypted = tmp_path / "rclone.conf"
    encrypted.write_bytes(b"# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\n\xff\xfe")
    for config in (encrypted, tmp_path / "none", tmp_path):
        assert secrets_of("nas:", {}, config) == ()


@pytest.mark.parametrize(
    "text",
    [
        "Put https://me:hunter2@host/x: refused",
        "Get https://h/x?X-Amz-Signature=hunter2&y=1: refused",
        "Get https://h/x?sv=1&sig=hunter2: refused",
        'Authorization: Bearer hunter2"',
        "password=hunter2",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    """Also one that nobody told us."""
    assert "hunter2" not in RcloneScrubber(())(text)
    assert "***" in RcloneScrubber(())(text)
