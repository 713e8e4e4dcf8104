"""zstor store: its configuration, what it asks for, what zstor's words mean and what is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hookd.digest import digest_of
from hookd.errors import (
    ConfigError,
    RemoteMissing,
    SourceGone,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
    UserError,
)
from hookd.files import Roots, data_key, index_key
from hookd.stores.zstor import ZstorStore
from hookd.stores.zstor_words import MAX_DETAIL_CHARS, Scrubber, understand
from tests.fakes.zstor import ABSENT, BROKEN_PIPE, DOWN_OLD, NOT_WRITABLE, FakeZstor, Mode
from tests.fakes.zstor_bytes import Request

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.fakes.zstor_fixtures"]

KEY = data_key("ns", 0)
SECRET_KEY = "0123456789abcdef" * 4

CONFIG = f"""
socket = "/run/zstor.sock"
prometheus_port = 9100
[encryption]
algorithm = "AES"
key = "{SECRET_KEY}"
[meta]
type = "zdb"
[meta.config]
prefix = "p"
[meta.config.encryption]
key = "metakey"
[[meta.config.backends]]
address = "127.0.0.1:9900"
password = "metapass"
[[groups]]
[[groups.backends]]
address = "127.0.0.1:9901"
password = "data\\"pass"
"""
SECRETS = (SECRET_KEY, "metakey", "metapass", 'data"pass')


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(fake: FakeZstor, roots: Roots, tmp_path: Path) -> ZstorStore:
    store = ZstorStore(
        socket=fake.socket, roots=roots, staging=tmp_path / "staging", secrets=SECRETS
    )
    store.prepare()
    return store


# -- configuration ---------------------------------------------------------------------------------


def load(folder: Path, text: str, roots: Roots) -> tuple[ZstorStore, list[str]]:
    place = folder / "zstor.toml"
    place.write_text(text)
    return ZstorStore.from_config(place, roots, folder / "staging")


def test_every_secret_is_known(tmp_path: Path, roots: Roots) -> None:
    """Passwords and keys, wherever they stand; nothing to warn of."""
    store, warnings = load(tmp_path, CONFIG, roots)
    assert warnings == []
    shown = store.scrub(f'a {SECRET_KEY} b metakey c metapass d data"pass e data\\"pass f')
    assert shown == "a *** b *** c *** d *** e *** f"


def test_eviction_by_zstor_is_warned_of(tmp_path: Path, roots: Roots) -> None:
    """It deletes files that were changed since they were stored."""
    _, (warning,) = load(tmp_path, "max_zdb_data_dir_size = 100\n" + CONFIG, roots)
    assert "max_zdb_data_dir_size" in warning


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CONFIG.replace("socket", "pid_file"), "no socket"),
        (CONFIG.replace('"/run/zstor.sock"', '""'), "no socket"),
        (CONFIG.replace('"metapass"', "metapass"), "no TOML .at line"),
        (CONFIG.replace('key = "metakey"', 'key = "metakey"\nkey = "metakey"'), "no TOML .at line"),
        (f'root = "/elsewhere"\n{CONFIG}', "does not contain"),
        (f"root = 5\n{CONFIG}", "does not contain"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, roots: Roots, text: str, match: str) -> None:
    """One line that names hookd's key and zstor's file, and quotes nothing secret."""
    with pytest.raises(ConfigError, match=match) as caught:
        load(tmp_path, text, roots)
    shown = str(caught.value)
    assert shown.startswith(f"store.zstor.config: {tmp_path}/zstor.toml")
    assert "\n" not in shown
    assert not any(secret in shown for secret in SECRETS)


def test_a_configuration_that_cannot_be_read(tmp_path: Path, roots: Roots) -> None:
    """Absent, or no text."""
    with pytest.raises(ConfigError, match="No such file"):
        ZstorStore.from_config(tmp_path / "absent", roots, tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        ZstorStore.from_config(tmp_path / "binary", roots, tmp_path)


def test_root_that_contains_both(tmp_path: Path, roots: Roots) -> None:
    """By their real paths, as zstor compares them."""
    load(tmp_path, f'root = "{roots.index.parent}"\n{CONFIG}', roots)


def test_prepare(tmp_path: Path, roots: Roots) -> None:
    """Private folder; what a killed daemon left in it goes, snapshots stay."""
    staging = tmp_path / "a" / "staging"
    store = ZstorStore(socket=tmp_path / "s", roots=roots, staging=staging)
    store.prepare()
    assert staging.stat().st_mode & 0o777 == 0o700
    (staging / "get-left/_").mkdir(parents=True)
    (staging / "12").mkdir()
    store.prepare()
    assert os.listdir(staging) == ["12"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file"):
        ZstorStore(socket=tmp_path / "s", roots=roots, staging=tmp_path / "file").prepare()


# -- words -----------------------------------------------------------------------------------------

_IO = "error during accessing local storage for "


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (ABSENT, RemoteMissing),
        (NOT_WRITABLE, StoreUnreachable),
        (BROKEN_PIPE, StoreUnreachable),
        (DOWN_OLD, StoreUnreachable),
        ("error during metadata: key reconstruction failed, data is corrupted", StoreUnreachable),
        ("ZDB at 10.0.0.1:9900 data, error operation WRITE caused by timeout", StoreUnreachable),
        ("error during configuration: no available groups", StoreUnreachable),
        (f"{_IO}attempting to store file which is not in the file tree rooted at /a: invalid data",
         StorePermanent),
        (f"{_IO}Could not load file metadata: No such file or directory (os error 2)", SourceGone),
        (f"{_IO}could not create output file: Permission denied (os error 13)", StorePermanent),
        (f"{_IO}could not create output file: No space left on device (os error 28)",
         StoreTemporary),
        ("error during encoding: too few shards present", StoreTemporary),
        ("something new", StoreTemporary),
        ("", StoreTemporary),
    ],
)  # fmt: skip
def test_what_a_text_means(text: str, error: type[StoreError]) -> None:
    """Exactly this class; the words are kept."""
    meant = understand("put", KEY, text, Scrubber(()))
    assert type(meant) is error
    assert " ".join(text.split()) in meant.detail


@pytest.mark.parametrize(
    "text",
    [
        'password: Some("hunter2")',
        "password=hunter2, next",
        '{"password": "hunter2"}',
        "Password hunter2",
        "passwd: 'hunter2'",
        f"key {SECRET_KEY.upper()} hunter2".replace(" hunter2", ""),
        f"({SECRET_KEY})",
    ],
)
def test_what_looks_like_a_secret_is_not_shown(text: str) -> None:
    """Also where no configuration told it."""
    shown = Scrubber(())(text)
    assert "***" in shown
    assert "hunter2" not in shown
    assert SECRET_KEY not in shown.lower()


@pytest.mark.parametrize("text", [NOT_WRITABLE, "something new"])
def test_no_error_shows_a_known_secret(text: str) -> None:
    """Whether its text is in the table or not."""
    meant = understand("put", KEY, f"{text} (metapass)", Scrubber(SECRETS))
    assert meant.detail.startswith(f"{text} (***)")
    assert "metapass" not in str(meant)


def test_shown_texts_are_short_and_one_line() -> None:
    """Secrets go first: a cut must not leave half of one; the longest first."""
    scrub = Scrubber(("long", "longer-secret", ""))
    assert scrub("a\nb\r\n  c longer-secret") == "a b c ***"
    shown = scrub("x" * (MAX_DETAIL_CHARS - 8) + " longer-secret" + "y" * 100)
    assert len(shown) == MAX_DETAIL_CHARS
    assert "long" not in shown


# -- requests --------------------------------------------------------------------------------------


async def test_what_is_asked_for(store: ZstorStore, fake: FakeZstor, roots: Roots) -> None:
    """Blocking stores that delete nothing; live files by their path, snapshots by its folder."""
    live = roots.path(KEY)
    live.write_bytes(b"x")
    await store.put(KEY, live, digest_of(b"x"))
    index = index_key("ns", 3)
    snapshot = roots.index.parent / "staging" / "9" / "i3"
    snapshot.parent.mkdir()
    snapshot.write_bytes(b"y")
    await store.put(index, snapshot, digest_of(b"y"))
    await store.stat(index)
    assert fake.requests == [
        Request("store", str(live), None, save_failure=False, delete=False, blocking=True),
        Request("store", str(snapshot), str(roots.index / "ns")),
        Request("check", str(roots.path(index))),
    ]


async def test_a_file_of_another_name(store: ZstorStore, roots: Roots) -> None:
    """Would be stored over another key: a mistake of the caller, refused."""
    with pytest.raises(ValueError, match="another key"):
        await store.put(KEY, roots.path(data_key("ns", 1)), b"")


async def test_names_that_zstor_cannot_be_told(store: ZstorStore, tmp_path: Path) -> None:
    """Too long for its frame: permanent for a get, and no proof of anything for a stat."""
    key = data_key("n" * 70_000, 0)
    with pytest.raises(StorePermanent, match="65535"):
        await store.get(key, tmp_path / "target")
    with pytest.raises(StoreTemporary, match="65535"):
        await store.stat(key)


# -- the canary ------------------------------------------------------------------------------------


async def test_the_canary_is_stored_once(
    store: ZstorStore, fake: FakeZstor, roots: Roots, tmp_path: Path
) -> None:
    """Also for later instances; it leaves nothing in the index folder."""
    await store.prove_absence()
    later = ZstorStore(socket=fake.socket, roots=roots, staging=tmp_path / "other")
    later.prepare()
    await later.prove_absence()
    assert [request.verb for request in fake.requests] == ["check", "store", "check", "check"]
    assert os.listdir(roots.index) == ["ns"]


async def test_read_only_with_a_canary(store: ZstorStore, fake: FakeZstor) -> None:
    """HEAD with one metadata backend away still sees its metadata: believed."""
    await store.prove_absence()
    fake.behave(Mode.NOT_WRITABLE)
    await store.prove_absence()


@pytest.mark.parametrize("mode", [Mode.BLIND, Mode.LIES, Mode.WRONG_CHECKSUM, Mode.NOT_WRITABLE])
async def test_absence_that_is_not_proven(store: ZstorStore, fake: FakeZstor, mode: Mode) -> None:
    """Blind, or anything like it: says what it looks like and what to do."""
    fake.behave(mode)
    with pytest.raises(StoreUnreachable, match=r"does not see its own metadata.*restart zstor"):
        await store.prove_absence()


@pytest.mark.parametrize("mode", [Mode.BLIND, Mode.WRONG_CHECKSUM])
async def test_a_canary_that_is_not_seen(store: ZstorStore, fake: FakeZstor, mode: Mode) -> None:
    """A zstor that is wrong about what hookd stored itself is not believed about the rest."""
    await store.prove_absence()
    fake.behave(mode)
    assert await store.stat(KEY) is None
    with pytest.raises(StoreUnreachable, match="restart zstor"):
        await store.prove_absence()
