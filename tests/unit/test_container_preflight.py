"""What a start needs from its host: each thing missing is told with its cure."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hookd.container import backends, layout, mounts, preflight, zstor_toml
from hookd.container.zstor_toml import Backends, Login
from hookd.errors import ConfigError, Exit, UserError
from tests.fakes.zdb_server import FakeZdbServer, Space

ROOTFS = Path(__file__).parents[2] / "rootfs"


def test_no_fuse(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device /dev/fuse") as caught:
        preflight.check_fuse(str(tmp_path / "fuse"))
    assert caught.value.code == Exit.NOPERM


def test_fuse_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """docker's device rules: it is there, and may not be used."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=r"cannot be opened \(Operation not permitted\)"):
        preflight.check_fuse()


@pytest.mark.parametrize(
    ("capabilities", "may"), [("00000000a80425fb", False), ("00000000a82425fb", True)]
)
def test_sys_admin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str, may: bool
) -> None:
    """The sets that docker gives without and with --cap-add SYS_ADMIN."""
    status = tmp_path / "status"
    status.write_text(f"Name:\thookd\nCapPrm:\t0\nCapEff:\t{capabilities}\n")
    monkeypatch.setattr(mounts, "may_mount", lambda: None)
    if may:
        preflight.check_mount(status)
        return
    with pytest.raises(UserError, match="--cap-add SYS_ADMIN") as caught:
        preflight.check_mount(status)
    assert caught.value.code == Exit.NOPERM


def test_apparmor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("CapEff:\t000001ffffffffff\n")
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(mounts, "may_mount", lambda: refused)
    with pytest.raises(UserError, match="apparmor=unconfined"):
        preflight.check_mount(status)


def test_backends_away(unused_port: int) -> None:
    """Those that refuse are named; an IPv6 address is shown in brackets."""
    found = backends.away([("127.0.0.1", unused_port)])
    assert list(found) == [("127.0.0.1", unused_port)]
    assert "refused" in found["127.0.0.1", unused_port]
    assert backends.shown(("2001:db8::1", 9900)) == "[2001:db8::1]:9900"
    assert backends.away([]) == {}


def login(server: FakeZdbServer, namespace: str, password: str | None, number: int = 2) -> Login:
    port = int(server.id.rpartition(":")[2])
    return Login(
        where=f"[[groups.backends]] number {number}",
        address=("127.0.0.1", port),
        namespace=namespace,
        password=password,
    )


@pytest.fixture
def server() -> Iterator[FakeZdbServer]:
    with FakeZdbServer() as server:
        server.spaces |= {"data": Space(password="s3cret-1"), "open": Space()}
        yield server


@pytest.mark.parametrize(
    ("namespace", "password", "said"),
    [
        ("data", "s3cret-1", None),
        ("open", None, None),
        ("open", "needless", None),
        ("data", "wr0ng-one", "Access denied"),
        ("data", None, "Access denied"),
        ("typo", "s3cret-1", "Namespace not found"),
    ],
)
def test_the_only_backend_turns_zstor_away(
    server: FakeZdbServer, unused_port: int, namespace: str, password: str | None, said: str | None
) -> None:
    """One line that names it, without a secret; one that is away, or mute, is waited for later."""
    away = Login(where="x", address=("127.0.0.1", unused_port), namespace="n", password="p")
    one = login(server, namespace, password)
    found = Backends(data=(), meta=(), data_logins=(one,), meta_logins=(away, away))
    if said is None:
        assert preflight.check_logins(found) == []
        return
    with pytest.raises(ConfigError, match=re.escape("[[groups.backends]] number 2")) as caught:
        preflight.check_logins(found)
    text = str(caught.value)
    assert said in text
    assert repr(namespace) in text
    assert "as 1 of 1 data backends do; reads need 1" in text
    assert "\n" not in text and "s3cret-1" not in text and "wr0ng-one" not in text
    assert "wr0ng-one" not in repr(found)


def grid(server: FakeZdbServer, data: str, meta: str, unused_port: int) -> Backends:
    """2 of 4 shards; a letter for each backend: `+` lets zstor in, `-` does not, `.` is away."""

    def logins(letters: str, first: int) -> tuple[Login, ...]:
        found = []
        for number, letter in enumerate(letters, start=first):
            one = login(server, {"+": "data", "-": "lost", ".": "data"}[letter], "s3cret-1", number)
            found.append(replace(one, address=("127.0.0.1", unused_port)) if letter == "." else one)
        return tuple(found)

    return Backends(
        data=(),
        meta=(),
        data_logins=logins(data, 10),
        meta_logins=logins(meta, 20),
        minimal_shards=2,
    )


@pytest.mark.parametrize(
    ("data", "meta", "numbers"),
    [
        ("+-++", "++++", [11]),
        ("--++", "++++", [10, 11]),
        ("++++", "-++-", [20, 23]),
        ("--..", "..--", [22, 23, 10, 11]),  # what is away may come back
    ],
)
def test_enough_backends_let_zstor_in(
    server: FakeZdbServer, unused_port: int, data: str, meta: str, numbers: list[int]
) -> None:
    """What erasure coding is for: each that does not is named, and nothing ends over it."""
    lines = preflight.check_logins(grid(server, data, meta, unused_port))
    assert [line.partition(":")[0] for line in lines] == [
        f"[[groups.backends]] number {number}" for number in numbers
    ]
    for line in lines:
        assert "'lost'" in line and "Namespace not found" in line and "s3cret-1" not in line


@pytest.mark.parametrize(
    ("data", "meta", "words"),
    [
        ("---+", "++++", "number 10: .* 3 of 4 data backends do; reads need 2"),
        ("---.", "++++", "number 10: .* 3 of 4 data backends do; reads need 2"),
        ("++++", "+---", "number 21: .* 3 of 4 metadata backends do; reads need 2"),
        ("----", "----", "number 20: .* 4 of 4 metadata backends do; reads need 2"),
    ],
)
def test_too_few_backends_let_zstor_in(
    server: FakeZdbServer, unused_port: int, data: str, meta: str, words: str
) -> None:
    """Then nothing can be read, now or later, and one line says so."""
    with pytest.raises(ConfigError, match=words) as caught:
        preflight.check_logins(grid(server, data, meta, unused_port))
    assert caught.value.code == Exit.CONFIG
    assert "\n" not in str(caught.value)


def test_a_backend_that_turns_zstor_away_is_warned_of(
    server: FakeZdbServer, unused_port: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start goes on."""
    found = grid(server, "-+++", "++++", unused_port)
    monkeypatch.setattr(zstor_toml, "check", lambda path, mountpoint: (found, ()))
    for name in ("check_fuse", "check_mount", "check_hookd"):
        monkeypatch.setattr(preflight, name, lambda *_: None)
    [line] = [line for line in preflight.check({}) if "[[groups.backends]]" in line]
    assert line.startswith("warning: [[groups.backends]] number 10: ")


def test_a_backend_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "CONNECT_WITHIN_S", 0.1)
    with FakeZdbServer() as server:
        server.mute = True
        assert backends.denied([login(server, "data", None)]) == []


def test_rclone_that_is_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image: hookd would end over it again and again."""
    found = mounts.mounts(TABLE)
    monkeypatch.setattr(mounts, "mounts", lambda table=None: found)
    environ = store_at(here, Path("/store/zdb"), "rclone")
    preflight.check_hookd({**environ, "PATH": str(here / "bin")})
    with pytest.raises(
        ConfigError, match=r"store\.rclone\.program.* 'rclone' is no program on PATH"
    ):
        preflight.check_hookd({**environ, "PATH": str(here)})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The container's folders, elsewhere; its configuration file as it ships."""
    for name in ("data", "index", "hookd/spool"):
        (tmp_path / name).mkdir(parents=True)
    text = (ROOTFS / "etc/hookd/hookd.toml").read_text()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rclone").write_text("")
    (tmp_path / "bin/rclone").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "hookd.toml").write_text(text.replace('"/data', f'"{tmp_path}'))
    for name, value in vars(layout).items():
        if isinstance(value, Path) and value.is_relative_to("/data"):
            monkeypatch.setattr(layout, name, tmp_path / value.relative_to("/data"))
    return tmp_path


def test_hookds_settings_as_they_ship(here: Path) -> None:
    preflight.check_hookd({"HOOKD_CONFIG": str(here / "hookd.toml")})


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("HOOKD_ZDB__DATA", "{here}", "zdb.data"),
        ("HOOKD_JOURNAL__PATH", "{here}/elsewhere/journal.db", "journal.path"),
        ("HOOKD_SNAPSHOT__STAGING", "{here}/staging", "snapshot.staging"),
        ("HOOKD_SNAPSHOT__STAGING", "{here}/hookd/../staging", "snapshot.staging"),
        ("HOOKD_SNAPSHOT__STAGING", "{here}/hookd/link", "snapshot.staging"),
        ("HOOKD_STORE__ZSTOR__CONFIG", "{here}/other.toml", "store.zstor.config"),
    ],
)
def test_state_off_the_volume(here: Path, variable: str, value: str, key: str) -> None:
    """What hookd keeps for the next start, and what it stores with, are the container's own."""
    (here / "elsewhere").mkdir()
    (here / "hookd/link").symlink_to(here / "elsewhere")
    environ = {"HOOKD_CONFIG": str(here / "hookd.toml"), variable: value.format(here=here)}
    with pytest.raises(ConfigError, match=re.escape(key)):
        preflight.check_hookd(environ)


def test_a_staging_folder_of_its_own_on_the_volume(here: Path) -> None:
    staging = str(here / "hookd/copies")
    environ = {"HOOKD_CONFIG": str(here / "hookd.toml"), "HOOKD_SNAPSHOT__STAGING": staging}
    preflight.check_hookd(environ)


def store_at(here: Path, path: Path, kind: str = "directory") -> dict[str, str]:
    """The environment of a container whose store is the folder `path`."""
    key = {"directory": "HOOKD_STORE__DIRECTORY__PATH", "rclone": "HOOKD_STORE__RCLONE__REMOTE"}
    return {
        "HOOKD_CONFIG": str(here / "hookd.toml"),
        "HOOKD_STORE__KIND": kind,
        key[kind]: str(path),
    }


def test_another_store_needs_no_zstor(here: Path) -> None:
    environ = store_at(here, here / "store")
    (here / "store").mkdir()
    preflight.check_hookd({**environ, "HOOKD_STORE__ZSTOR__CONFIG": "/etc/other.toml"})


TABLE = """\
1 0 0:40 / / rw - overlay overlay rw
2 1 0:41 / /dev/shm rw - tmpfs shm rw
3 1 254:1 /srv/pool /store rw - ext4 /dev/vda1 rw
4 3 0:42 / /store/scratch rw - tmpfs tmpfs rw
5 1 254:1 /var/lib/docker/volumes/v/_data /data rw - ext4 /dev/vda1 rw
"""


@pytest.mark.parametrize("kind", ["directory", "rclone"])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/store/of/zdb", ""),
        ("/store", ""),
        ("/stores", "on the container's own disk"),
        ("/srv/zdb", "on the container's own disk"),
        ("/store/scratch/zdb", "in memory"),
        ("/dev/shm/zdb", "in memory"),
        ("/mnt/zdb", "lies in the file system that it has to keep"),
    ],
)
def test_a_store_that_goes_with_the_container(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str, path: str, why: str
) -> None:
    """A folder is a store where a volume of its own lies below it; elsewhere the start is refused."""
    found = mounts.mounts(TABLE)
    monkeypatch.setattr(mounts, "mounts", lambda table=None: found)
    environ = store_at(here, Path(path), kind)
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    if not why:
        preflight.check_hookd(environ)
        return
    with pytest.raises(ConfigError, match=re.escape(why)) as caught:
        preflight.check_hookd(environ)
    assert path in str(caught.value)


def test_a_store_that_cannot_be_made(here: Path) -> None:
    """hookd would end again and again over it; the rest of the container would wait."""
    environ = store_at(here, here / "typo" / "store")
    with pytest.raises(ConfigError, match="there is no folder"):
        preflight.check_hookd(environ)
    preflight.check_hookd({**environ, "HOOKD_STORE__DIRECTORY__MUST_EXIST": "true"})  # waited for
    preflight.check_hookd(store_at(here, here / "store"))


def test_a_store_behind_a_link(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it leads counts, not where it lies."""
    found = mounts.mounts(TABLE)
    monkeypatch.setattr(mounts, "mounts", lambda table=None: found)
    (here / "link").symlink_to("/srv")
    with pytest.raises(ConfigError, match="the container's own disk"):
        preflight.check_hookd(store_at(here, here / "link" / "zdb"))


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
