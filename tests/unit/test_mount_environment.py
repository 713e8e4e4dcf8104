"""RCLONE_CONFIG_* into sections: names, files, secrets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd import log
from hookd.errors import ConfigError, Exit, RemoteRefused, RemoteUnreachable
from hookd.mount import failures
from hookd.mount.environment import Remotes, read
from hookd.mount.forms import looks_obscured, ways
from hookd.mount.rclone import Rclone, check_flags
from hookd.mount.settings import MountSection

OBSCURED = "XWFa75bwMrHgyreTqpbNI2KUJQ"
SEED = {
    "RCLONE_CONFIG": "/srv/.rclone/rclone.conf",
    "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
    "RCLONE_CONFIG_RSHARE_URL": "https://cloud.example/remote.php/webdav/",
    "RCLONE_CONFIG_RSHARE_VENDOR": "nextcloud",
    "RCLONE_CONFIG_RSHARE_USER": "me@example",
    "RCLONE_CONFIG_RSHARE_PASS": "pass word",
    "REMOTE_PATH": "rshare:/",
}


@pytest.fixture(autouse=True)
def forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of one test are no secrets of the next."""
    monkeypatch.setattr(log, "_secrets", [])


def remotes(**changes: str) -> Remotes:
    """The seed's environment with changes; an empty value drops one."""
    environ = {key: value for key, value in {**SEED, **changes}.items() if value}
    return read(environ["REMOTE_PATH"], environ)


def test_the_seed() -> None:
    """One section, its password to be obscured and never shown."""
    found = remotes()
    assert found.target == "rshare:/"
    assert found.sections["rshare"]["vendor"] == "nextcloud"
    assert found.passwords() == [("rshare", "pass")]
    assert log.scrub("it is pass word") == "it is ***"


def test_secret_from_a_file(tmp_path: Path) -> None:
    """One line end is the editor's, the rest is the password."""
    (tmp_path / "secret").write_text(" a\nb\n\n")
    found = remotes(
        RCLONE_CONFIG_RSHARE_PASS="", RCLONE_CONFIG_RSHARE_PASS_FILE=str(tmp_path / "secret")
    )
    assert found.sections["rshare"]["pass"] == " a\nb\n"


def test_an_option_that_ends_in_file_is_one() -> None:
    """sftp's key_file is a path of rclone's own."""
    found = read(
        "box:/",
        {"RCLONE_CONFIG_BOX_TYPE": "sftp", "RCLONE_CONFIG_BOX_KEY_FILE": "/keys/id"},
    )
    assert found.sections["box"]["key_file"] == "/keys/id"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"REMOTE_PATH": "nothing"}, "mount.remote_path"),
        ({"REMOTE_PATH": "-x:/"}, "mount.remote_path"),
        ({"REMOTE_PATH": "other:/"}, "mount.remote_path"),
        ({"RCLONE_CONFIG_OTHR_USER": "x"}, "RCLONE_CONFIG_OTHR_USER"),
        ({"RCLONE_CONFIG_RSHARE_PASS_FILE": "/no/file"}, "RCLONE_CONFIG_RSHARE_PASS_FILE"),
        ({"RCLONE_CONFIG_RSHARE_URL": "a\nb"}, "RCLONE_CONFIG_RSHARE_URL"),
    ],
)
def test_refused(changes: dict[str, str], key: str) -> None:
    """One line that begins with the variable or the key."""
    with pytest.raises(ConfigError) as caught:
        remotes(**changes)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [":webdav,url=http://x,pass=hunter2:/x", "rshare,pass=hunter2:/", ":webdav,pass='hunter2"],
)
def test_a_connection_string_is_not_repeated(path: str) -> None:
    """Its password would be in the error."""
    with pytest.raises(ConfigError) as raised:
        read(path, SEED)
    assert raised.value.key == "mount.remote_path"
    assert "hunter2" not in str(raised.value)


def test_a_secret_of_a_kind_of_remote() -> None:
    """It goes into rclone.conf, out of the environment, and out of every line; a remote's own wins."""
    given = {
        **{key: value for key, value in SEED.items() if not key.endswith("_PASS")},
        "RCLONE_CONFIG_OTHER_TYPE": "webdav",
        "RCLONE_CONFIG_OTHER_PASS": "its own pass",
        "RCLONE_WEBDAV_PASS": "for every webdav",
        "RCLONE_S3_SECRET_ACCESS_KEY": "of a kind that is not here",
        "AWS_SECRET_ACCESS_KEY": "of amazon",
        "RCLONE_ASK_PASSWORD": "false",
        "RCLONE_WEBDAV_PACER_MIN_SLEEP": "10ms",
    }
    found = read("rshare:/", given)
    assert found.sections["rshare"]["pass"] == "for every webdav"
    assert found.sections["other"]["pass"] == "its own pass"
    assert ("rshare", "pass") in found.passwords()
    assert found.taken == {"RCLONE_WEBDAV_PASS", "RCLONE_WEBDAV_PACER_MIN_SLEEP"}
    for secret in ("for every webdav", "of a kind that is not here", "of amazon"):
        assert log.scrub(f"it said {secret}!") == "it said ***!"
    assert log.scrub("false alarm") == "false alarm"


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--dry-run", "keeps rclone from writing"),
        ("--interactive=true", "keeps rclone from writing"),
        ("--webdav-pass=hunter2", "may hold a secret"),
        ("--header=Authorization: Bearer hunter2", "RCLONE_HEADER"),
        ("--header-upload=X: hunter2", "RCLONE_HEADER_UPLOAD"),
        ("--http-proxy=http://u:hunter2@p:1", "RCLONE_HTTP_PROXY"),
        ("--s3-secret-access-key=hunter2", "may hold a secret"),
        ("-webdav-pass=hunter2", "is no flag"),
        ("--rc-web-gui", "hookd's own"),
        ("--log-file=/x", "hookd's own"),
    ],
)
def test_flags_that_are_refused(flag: str, word: str) -> None:
    """What keeps rclone from uploading, and what belongs into no command line; no value is repeated."""
    with pytest.raises(ConfigError, match=word) as raised:
        check_flags((flag,))
    assert "hunter2" not in str(raised.value)


def test_flags_that_are_taken() -> None:
    """What tunes it."""
    flags = ("--vfs-refresh", "--checkers=2", "--ask-password=false", "--dir-cache-time=5m")
    check_flags(flags)
    check_flags((*flags, "--http-proxy=http://p"), {"x": {"type": "http"}})


@pytest.mark.parametrize(
    ("flag", "variable"),
    [
        ("--webdav-url=http://other", "RCLONE_WEBDAV_URL"),
        ("--webdav-pacer-min-sleep=1ms", "RCLONE_WEBDAV_PACER_MIN_SLEEP"),
        ("--gcs-anonymous", "RCLONE_GCS_ANONYMOUS"),
        ("--oos-compartment=c", "RCLONE_OOS_COMPARTMENT"),
        ("--s3-endpoint=http://other", "RCLONE_S3_ENDPOINT"),
        ("--swift-auth=http://other", "RCLONE_SWIFT_AUTH"),
    ],
)
def test_flags_of_the_remote(flag: str, variable: str) -> None:
    """They win over the place that the cache is named after: what waits in it would go to another one.

    All of the types that are here, and whatever says a place of a type that an encrypted file may have.
    """
    sections = {
        "rshare": {"type": "webdav"},
        "gcs": {"type": "google cloud storage"},
        "oracle": {"type": "oracleobjectstorage"},
    }
    with pytest.raises(ConfigError, match=f"write {variable}, or") as raised:
        check_flags((flag,), sections)
    assert "other" not in str(raised.value)


def test_a_mount_refuses_flags_of_its_remote(tmp_path: Path) -> None:
    """The start knows the types of its remotes."""
    with pytest.raises(ConfigError, match="RCLONE_WEBDAV_VENDOR"):
        Rclone(
            MountSection(rclone="/bin/true", flags=("--webdav-vendor=other",)),
            read("rshare:/", SEED),
            cache=tmp_path,
            runtime=tmp_path,
            environ=SEED,
        )


def test_two_remotes() -> None:
    """One that wraps another; the longest name wins."""
    found = read(
        "safe:",
        {
            "RCLONE_CONFIG_SAFE_TYPE": "crypt",
            "RCLONE_CONFIG_SAFE_REMOTE": "safe_disk:/x",
            "RCLONE_CONFIG_SAFE_PASSWORD": "p",
            "RCLONE_CONFIG_SAFE_DISK_TYPE": "local",
            "RCLONE_CONFIG_PASS": "not a remote",
        },
    )
    assert found.sections["safe_disk"] == {"type": "local"}
    assert found.sections["safe"]["remote"] == "safe_disk:/x"


def test_a_file_alone_is_used_as_it_is(tmp_path: Path) -> None:
    """With variables beside it the two are put together, and its passwords stay obscured."""
    conf = tmp_path / "rclone.conf"
    conf.write_text(f"[disk]\ntype = webdav\npass = {OBSCURED}\n")
    alone = read("disk:/", {"RCLONE_CONFIG": str(conf)})
    assert alone.file == conf
    both = read("disk:/", {"RCLONE_CONFIG": str(conf), "RCLONE_CONFIG_DISK_URL": "http://x"})
    assert both.file is None
    assert both.sections["disk"] == {"type": "webdav", "pass": OBSCURED, "url": "http://x"}
    assert both.passwords() == []


def test_identity_is_of_the_place() -> None:
    """A password does not change it, the URL, the user and the path do."""
    same = remotes().identity
    assert remotes(RCLONE_CONFIG_RSHARE_PASS="other").identity == same
    assert remotes(RCLONE_CONFIG_RSHARE_NEXTCLOUD_CHUNK_SIZE="0").identity == same
    for key, value in (("RSHARE_USER", "x"), ("RSHARE_URL", "http://x")):
        assert remotes(**{f"RCLONE_CONFIG_{key}": value}).identity != same
    assert remotes(REMOTE_PATH="rshare:/sub").identity != same


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("swift", "auth"),
        ("filescom", "site"),
        ("pcloud", "hostname"),
        ("seafile", "library"),
        ("storj", "satellite_address"),
    ],
)
def test_identity_of_other_types(kind: str, option: str) -> None:
    """Each has its own word for the place."""
    environ = {"RCLONE_CONFIG_X_TYPE": kind}
    variable = f"RCLONE_CONFIG_X_{option.upper()}"
    one = read("x:", {**environ, variable: "one"})
    assert one.identity != read("x:", {**environ, variable: "two"}).identity


@pytest.mark.parametrize(
    ("option", "one", "rotated", "elsewhere"),
    [
        ("SAS_URL", "https://a/c?sig=1", "https://a/c?sig=2", "https://b/c?sig=1"),
        (
            "CONNECTION_STRING",
            "AccountName=a;AccountKey=secretone==;EndpointSuffix=e",
            "AccountName=a;EndpointSuffix=e;AccountKey=secrettwo==",
            "AccountName=b;AccountKey=secretone==;EndpointSuffix=e",
        ),
    ],
)
def test_identity_of_a_place_with_its_secret(
    option: str, one: str, rotated: str, elsewhere: str
) -> None:
    """Azure has both in one value: only the place of it counts."""
    found = {
        value: read(
            "x:", {"RCLONE_CONFIG_X_TYPE": "azureblob", f"RCLONE_CONFIG_X_{option}": value}
        ).identity
        for value in (one, rotated, elsewhere)
    }
    assert found[one] == found[rotated] != found[elsewhere]


@pytest.mark.parametrize("option", ["ACCESS_GRANT", "PRIVATE_KEY", "SSE_CUSTOMER_KEY"])
def test_secrets_with_no_such_word_in_their_name(option: str) -> None:
    """No line shows them."""
    read("x:", {"RCLONE_CONFIG_X_TYPE": "storj", f"RCLONE_CONFIG_X_{option}": f"grant-{option}"})
    assert log.scrub(f"it said grant-{option}!") == "it said ***!"


def test_identity_is_of_what_is_needed() -> None:
    """Another remote beside it changes nothing; one that the mounted one is made of does."""
    same = remotes().identity
    assert remotes(RCLONE_CONFIG_OTHER_TYPE="local").identity == same
    crypt = {
        "REMOTE_PATH": "secret:/",
        "RCLONE_CONFIG_SECRET_TYPE": "crypt",
        "RCLONE_CONFIG_SECRET_REMOTE": "both:",
        "RCLONE_CONFIG_BOTH_TYPE": "union",
        "RCLONE_CONFIG_BOTH_UPSTREAMS": "rshare:/a more:/b:ro",
        "RCLONE_CONFIG_MORE_TYPE": "local",
    }
    same = remotes(**crypt).identity
    assert remotes(**crypt, RCLONE_CONFIG_OTHER_TYPE="local").identity == same
    for key, value in (("RSHARE_URL", "http://x"), ("MORE_TYPE", "memory")):
        assert remotes(**{**crypt, f"RCLONE_CONFIG_{key}": value}).identity != same


def test_variables_of_a_type(tmp_path: Path) -> None:
    """RCLONE_WEBDAV_*: behind RCLONE_CONFIG_*, before a file, and part of the identity."""
    same = remotes()
    url = remotes(RCLONE_WEBDAV_URL="http://x")
    assert url.sections == same.sections  # the remote's own variable is the stronger
    assert url.identity == same.identity
    assert url.taken == {"RCLONE_WEBDAV_URL"}  # so rclone must not see the other one
    token = remotes(RCLONE_WEBDAV_BEARER_TOKEN="of-the-bearer", RCLONE_S3_ENDPOINT="http://y")
    assert token.sections["rshare"]["bearer_token"] == "of-the-bearer"
    assert token.taken == {"RCLONE_WEBDAV_BEARER_TOKEN"}
    assert "of-the-bearer" not in log.scrub("said of-the-bearer")
    config = tmp_path / "rclone.conf"
    config.write_text("[rshare]\ntype = webdav\nurl = http://a\n")
    environ = {"RCLONE_CONFIG": str(config), "RCLONE_WEBDAV_PASS": "of-the-type"}
    filed = read("rshare:/", environ)
    assert filed.file == config
    assert filed.taken == frozenset()
    assert "of-the-type" not in log.scrub("said of-the-type")
    other = read("rshare:/", {**environ, "RCLONE_WEBDAV_URL": "http://b"})
    assert other.identity != filed.identity
    assert read("rshare:/", {**environ, "RCLONE_S3_ENDPOINT": "b"}).identity == filed.identity
    # with a variable of its own hookd writes the file, and what was in it yields to the type's
    mixed = read(
        "rshare:/",
        {**environ, "RCLONE_CONFIG_RSHARE_USER": "u", "RCLONE_WEBDAV_URL": "http://b"},
    )
    assert mixed.sections["rshare"]["url"] == "http://b"
    assert mixed.passwords() == [("rshare", "pass")]
    config.write_text("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nabc\n")
    sealed = read("rshare:/", environ)
    assert read("rshare:/", {**environ, "RCLONE_WEBDAV_URL": "b"}).identity != sealed.identity
    assert read("rshare:/", {**environ, "RCLONE_TRANSFERS": "9"}).identity == sealed.identity


def test_ways_of_the_seed() -> None:
    """Its old URL in the modern form first, then in one piece; a plain password is plain."""
    found = list(ways(remotes(), "auto"))
    assert [way.passwords for way in found] == ["plain", "plain"]
    first, second = (way.sections["rshare"] for way in found)
    assert first["url"] == "https://cloud.example/remote.php/dav/files/me@example/"
    assert second["nextcloud_chunk_size"] == "0"
    assert first["pacer_min_sleep"] == "1ms"


@pytest.mark.parametrize(
    ("text", "may"),
    [
        (OBSCURED, True),
        ("pass word", False),
        ("short", False),
        ("a" * 21, False),
        ("a" * 25, False),
    ],
)
def test_what_may_be_obscured(text: str, may: bool) -> None:
    """Base64 of 16 bytes and more."""
    assert looks_obscured(text) is may


def test_no_guess_where_nobody_checks() -> None:
    """A crypt password that may be either is refused; told which, it is taken."""
    crypt = read(
        "safe:", {"RCLONE_CONFIG_SAFE_TYPE": "crypt", "RCLONE_CONFIG_SAFE_PASSWORD": OBSCURED}
    )
    with pytest.raises(ConfigError, match="password_form"):
        list(ways(crypt, "auto"))
    assert [way.passwords for way in ways(crypt, "obscured")] == ["obscured"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("couldn't list files: 401 Unauthorized", Exit.NOPERM),
        ("InvalidAccessKeyId: The key does not exist", Exit.NOPERM),
        ("ssh: handshake failed: ssh: unable to authenticate", Exit.NOPERM),
        ("dial tcp 127.0.0.1:1: connect: connection refused", Exit.UNAVAILABLE),
        ("lookup x.invalid: no such host", Exit.UNAVAILABLE),
        ("429 Too Many Requests", Exit.UNAVAILABLE),
        ("507 Insufficient Storage", Exit.UNAVAILABLE),
        ("i/o timeout", Exit.UNAVAILABLE),
        ("error listing: directory not found", Exit.CONFIG),
        ("use /dav/files/USER endpoint instead of /webdav", Exit.CONFIG),
        ("x509: certificate signed by unknown authority", Exit.CONFIG),
        ("x509: certificate is valid for a.example, not b.example", Exit.CONFIG),
        ("x509: certificate has expired or is not yet valid", Exit.UNAVAILABLE),
        ("RequestTimeTooSkewed: 403 Forbidden", Exit.UNAVAILABLE),
        ("405 Method Not Allowed", Exit.CONFIG),
        ("server gave HTTP response to HTTPS client", Exit.CONFIG),
        ("didn't find section in config file", Exit.CONFIG),
        ("something nobody has seen before", Exit.UNAVAILABLE),
        (
            'fs for "r:/a 403 b/forbidden": Propfind "http://h:401/team-405/404":'
            " dial tcp 127.0.0.1:401: connect: connection refused",
            Exit.UNAVAILABLE,
        ),
        ("dial tcp: lookup nas-404.invalid on 10.0.0.1:53: no such host", Exit.UNAVAILABLE),
        ('Propfind "http://h/403": 503 Service Unavailable', Exit.UNAVAILABLE),
        ('Propfind "http://h/data": 403 Forbidden', Exit.NOPERM),
        ("StatusCode: 403, RequestID: 1, api error Forbidden: Forbidden", Exit.NOPERM),
        ('Get "x": unsupported protocol scheme ""', Exit.CONFIG),
    ],
)
def test_classes_of_failures(text: str, code: Exit) -> None:
    """Whose fault it is; clocks are named."""
    error = failures.classify("rshare:/", f"2026/01/01 00:00:00 CRITICAL: Failed: {text}")
    assert error.code is code
    assert isinstance(error, RemoteRefused) is (code is Exit.NOPERM)
    assert isinstance(error, RemoteUnreachable) is (code is Exit.UNAVAILABLE)
    assert "\n" not in str(error)
    assert ("clock" in str(error)) is ("Skew" in text or "expired" in text)
