"""Configuration: what is accepted, what is refused, and with which line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hookd import config as module
from hookd.config import REQUIRED, Config, Secret, Setting, load, settings
from hookd.errors import ConfigError, Exit

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "configuration.md"
ALL = tuple(settings())

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's own /etc/hookd/hookd.toml has no part in these tests."""
    path = tmp_path / "etc" / "hookd.toml"
    monkeypatch.setattr(module, "DEFAULT_PATH", path)
    return path


@pytest.fixture
def base(tmp_path: Path) -> dict[str, str]:
    """The least environment that is a configuration: roots that exist, a directory store."""
    for name in ("index", "data"):
        (tmp_path / name).mkdir()
    return {
        "HOOKD_ZDB__INDEX": f"{tmp_path}/index",
        "HOOKD_ZDB__DATA": f"{tmp_path}/data",
        "HOOKD_STORE__KIND": "directory",
        "HOOKD_STORE__DIRECTORY__PATH": f"{tmp_path}/remote",
    }


@pytest.fixture
def write(tmp_path: Path, base: dict[str, str]) -> Write:
    """Writes a file: the least configuration, or `text` in which `{tmp}` is filled in."""
    least = (
        '[zdb]\nindex = "{tmp}/index"\ndata = "{tmp}/data"\n'
        '[store]\nkind = "directory"\n[store.directory]\npath = "{tmp}/remote"\n'
    )

    def write(text: str = "", *, whole: bool = False) -> Path:
        path = tmp_path / "hookd.toml"
        content = text if whole else least + text
        path.write_text(content.replace("{tmp}", str(tmp_path)))
        return path

    return write


def refused(path: Path | None, environ: dict[str, str], key: str) -> str:
    """The reason for which this is refused under `key`: one line, exit code 78."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    error = caught.value
    assert error.key == key
    assert error.code is Exit.CONFIG
    assert str(error) == f"{key}: {error.reason}"
    assert str(error).isprintable()
    return error.reason


# -- what is accepted ------------------------------------------------------------------------------


def test_least_environment_needs_no_file(base: dict[str, str], tmp_path: Path) -> None:
    """With four variables and no file there is a configuration, the rest of it defaults."""
    config = load(None, base)
    assert config.zdb.index == tmp_path / "index"
    assert config.store.kind == "directory"
    assert config.store.directory is not None
    assert config.store.directory.path == tmp_path / "remote"
    assert config.store.zstor is None
    assert config.hook.socket == Path("/run/hookd/hook.sock")
    assert config.zdb.skip_namespaces == ("zdbfs-temp",)
    assert config.drain.timeout_s is None


def test_file(write: Write) -> None:
    """A file sets keys of every kind: paths, numbers, sizes as text, lists, text."""
    path = write(
        "[hook]\nsocket = '/run/other.sock'\nmax_connections = 7\nframe_timeout_s = 2\n"
        'allow_users = ["zdb", 1000]\n'
        '[snapshot]\nmax_bytes = "512MiB"\nstaging = "{tmp}/stage"\n'
        '[log]\nlevel = "debug"\n'
    )
    config = load(path, {})
    assert config.hook.socket == Path("/run/other.sock")
    assert config.hook.max_connections == 7
    assert config.hook.frame_timeout_s == 2.0
    assert config.hook.allow_users == ("zdb", 1000)
    assert config.snapshot.max_bytes == 512 * 1024**2
    assert config.staging_path == path.parent / "stage"
    assert config.log.level == "debug"


def test_environment_wins_over_the_file(write: Write) -> None:
    """A variable replaces the file's value of its key and of no other."""
    path = write("[dispatch]\nworkers = 2\nbackoff_base_s = 3\n")
    config = load(path, {"HOOKD_DISPATCH__WORKERS": "9"})
    assert config.dispatch.workers == 9
    assert config.dispatch.backoff_base_s == 3.0


def sample(setting: Setting, tmp_path: Path) -> tuple[str, object]:
    """A value for a key as the environment writes it, and what it is read as; never the default."""
    special: dict[str, tuple[str, object]] = {
        "zdb.index": (f"{tmp_path}/index", tmp_path / "index"),
        "zdb.data": (f"{tmp_path}/data", tmp_path / "data"),
        "zdb.address": ("tcp://127.0.0.1:9900", "tcp://127.0.0.1:9900"),
        "zdb.skip_namespaces": ("a, b", ("a", "b")),
        "hook.allow_users": ("zdb, 1000", ("zdb", 1000)),
        "restore.full": ("true", True),
        "restore.namespaces": ("a, b", ("a", "b")),
        "store.kind": ("zstor", "zstor"),
        "mount.flags": ("--vfs-refresh --checkers=2", ("--vfs-refresh", "--checkers=2")),
        "store.rclone.remote": ("nas:zdb", "nas:zdb"),
    }
    if setting.bare is bool:
        return str(not setting.default).lower(), not setting.default
    if setting.key.endswith("password_file"):  # it is read
        (tmp_path / "secret").write_text("hunter2\n")
        return str(tmp_path / "secret"), tmp_path / "secret"
    if setting.key in special:
        return special[setting.key]
    if get_origin(setting.bare) is Literal:
        choice = next(c for c in get_args(setting.bare) if c != setting.default)
        return choice, choice
    path = tmp_path / setting.key
    by_type: dict[Any, tuple[str, object]] = {
        Path: (str(path), path),
        Secret: ("hunter2", "hunter2"),
        str: ("some text", "some text"),
        int: ("7", 7),
        float: ("2.5", 2.5),
    }
    return by_type[setting.bare]


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.key)
def test_every_key_by_environment(setting: Setting, base: dict[str, str], tmp_path: Path) -> None:
    """Each key has a variable that sets it."""
    text, expected = sample(setting, tmp_path)
    assert expected != setting.default
    environ = base | {
        "HOOKD_STORE__ZSTOR__CONFIG": "/etc/zstor.toml",
        "HOOKD_STORE__RCLONE__REMOTE": "nas:zdb",
        setting.environment: text,
    }
    assert load(None, environ).value(setting.key) == expected


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("4096B", 4096),
        ("1KiB", 1024),
        ("4 GiB", 4 * 1024**3),
        ("1.5MiB", 1_572_864),
        ("2TiB", 2 * 1024**4),
        ("3MB", 3_000_000),
        ("0.001kB", 1),
    ],
)
def test_sizes(base: dict[str, str], text: str, size_bytes: int) -> None:
    """Sizes are whole bytes, written plain or with a unit."""
    config = load(None, base | {"HOOKD_SNAPSHOT__MAX_BYTES": text})
    assert config.snapshot.max_bytes == size_bytes


@pytest.mark.parametrize("text", ["", "none"])
def test_a_default_can_be_taken_away(base: dict[str, str], write: Write, text: str) -> None:
    """Where None is a value, `none` or nothing writes it, in the environment and in the file."""
    assert load(None, base | {"HOOKD_SNAPSHOT__MAX_BYTES": text}).snapshot.max_bytes is None
    assert load(write(f'[snapshot]\nmax_bytes = "{text}"\n'), {}).snapshot.max_bytes is None


def test_none_is_a_password_like_any_other(base: dict[str, str]) -> None:
    """For a text `none` is that text; only nothing is None."""
    variable = "HOOKD_ZDB__ADMIN_PASSWORD"
    assert load(None, base | {variable: "none"}).zdb.admin_password == "none"
    assert load(None, base | {variable: ""}).zdb.admin_password is None


def test_an_empty_variable_is_an_empty_list(base: dict[str, str]) -> None:
    """The default list of namespaces to skip can be emptied."""
    config = load(None, base | {"HOOKD_ZDB__SKIP_NAMESPACES": ""})
    assert config.zdb.skip_namespaces == ()


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:9900", "tcp://:::9900", "unix:///run/zdb.sock"])
def test_addresses_as_zdb_prints_them(base: dict[str, str], address: str) -> None:
    """What zdb gives its hooks as its id is an address."""
    assert load(None, base | {"HOOKD_ZDB__ADDRESS": address}).zdb.address == address


def test_time_limit_grows_with_the_file(base: dict[str, str]) -> None:
    """One operation has `timeout_s`, and the time that the file takes at `min_rate_bytes_s`."""
    environ = base | {"HOOKD_STORE__TIMEOUT_S": "10", "HOOKD_STORE__MIN_RATE_BYTES_S": "1MiB"}
    store = load(None, environ).store
    assert store.time_limit_s(0) == 10
    assert store.time_limit_s(16 * 1024**2) == 26


def test_staging_is_beside_the_journal(base: dict[str, str]) -> None:
    """Without a key of its own the staging folder follows the journal."""
    config = load(None, base | {"HOOKD_JOURNAL__PATH": "/srv/hookd/journal.db"})
    assert config.staging_path == Path("/srv/hookd/staging")


# -- which file ------------------------------------------------------------------------------------


def test_file_that_hookd_config_names(write: Write, no_default_file: Path) -> None:
    """HOOKD_CONFIG names the file when the caller does not, before the default one."""
    no_default_file.parent.mkdir()
    no_default_file.write_text("this is never read")
    path = write("[dispatch]\nworkers = 3\n")
    assert load(None, {"HOOKD_CONFIG": str(path)}).dispatch.workers == 3


def test_caller_wins_over_hookd_config(write: Write) -> None:
    """`--config` is the last word."""
    path = write("[dispatch]\nworkers = 3\n")
    assert load(path, {"HOOKD_CONFIG": "/nowhere.toml"}).dispatch.workers == 3


def test_default_file(write: Write, no_default_file: Path) -> None:
    """The default file is read if it is there."""
    no_default_file.parent.mkdir()
    no_default_file.write_bytes(write("[dispatch]\nworkers = 5\n").read_bytes())
    assert load(None, {}).dispatch.workers == 5


def test_a_dangling_default_file_is_an_error(no_default_file: Path, base: dict[str, str]) -> None:
    """A default file whose volume is not mounted is not the same as none."""
    no_default_file.parent.mkdir()
    no_default_file.symlink_to("/nowhere.toml")
    assert "No such file" in refused(None, base, str(no_default_file))


@pytest.mark.parametrize("named_by", ["caller", "HOOKD_CONFIG"])
def test_file_absent(base: dict[str, str], tmp_path: Path, named_by: str) -> None:
    """A named file that is not there is an error, even if the environment alone would do."""
    path = tmp_path / "absent.toml"
    if named_by == "caller":
        reason = refused(path, base, str(path))
    else:
        reason = refused(None, base | {"HOOKD_CONFIG": str(path)}, str(path))
    assert reason == (
        "cannot be read (No such file or directory); create it, or name another with --config"
    )


def test_file_is_a_folder(tmp_path: Path) -> None:
    """What cannot be read says why."""
    assert "Is a directory" in refused(tmp_path, {}, str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_unreadable(write: Write) -> None:
    """No permission is told apart from absence."""
    path = write()
    path.chmod(0)
    assert "Permission denied" in refused(path, {}, str(path))


def test_toml_syntax(write: Write) -> None:
    """A syntax error is told with its line and column, and not with the line's content."""
    path = write('[zdb]\nadmin_password = hunter2\nindex = "/x"\n', whole=True)
    reason = refused(path, {}, str(path))
    assert "line 2, column 18" in reason
    assert "hunter2" not in reason


def test_a_number_beyond_all_measure(write: Write) -> None:
    """Python refuses to parse a number of more than 4300 digits; that is an error like another."""
    path = write("[hook]\nmax_connections = " + "9" * 5000)
    assert "is no TOML" in refused(path, {}, str(path))


def test_file_not_utf8(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[zdb]\nindex = "/caf\xe9"\n')
    assert refused(path, {}, str(path)).startswith("byte 19 is not UTF-8")


# -- the shim's variables --------------------------------------------------------------------------


def test_shim_variables_are_defaults(base: dict[str, str], write: Write) -> None:
    """HOOKD_SOCKET and HOOKD_SPOOL stand in for a key that nobody set, and for nothing more."""
    shim = {"HOOKD_SOCKET": "/run/shim.sock", "HOOKD_SPOOL": "/srv/spool"}
    config = load(None, base | shim)
    assert (config.hook.socket, config.hook.spool) == (Path("/run/shim.sock"), Path("/srv/spool"))
    config = load(write('[hook]\nsocket = "/run/file.sock"\n'), shim)
    assert (config.hook.socket, config.hook.spool) == (Path("/run/file.sock"), Path("/srv/spool"))
    config = load(None, base | shim | {"HOOKD_HOOK__SOCKET": "/run/own.sock"})
    assert config.hook.socket == Path("/run/own.sock")


def test_the_shim_s_other_variables_are_not_ours(base: dict[str, str]) -> None:
    """The daemon may run with the shim's environment."""
    shim = {"HOOKD_TIMEOUT_S": "3", "HOOKD_WAIT_S": "nonsense", "HOOKD_SOCKET": ""}
    assert load(None, base | shim) == load(None, base)


def test_a_wrong_shim_variable_is_named(base: dict[str, str]) -> None:
    """A wrong default says where it comes from."""
    reason = refused(None, base | {"HOOKD_SOCKET": "hook.sock"}, "hook.socket")
    assert reason.endswith("; correct HOOKD_SOCKET")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[hook]\nsoket = 1\n", "hook.soket", "did you mean hook.socket? "),
        ("[hoook]\n", "hoook", "did you mean hook? "),
        ("[drain]\ntimeout = 1\n", "drain.timeout", "did you mean drain.timeout_s? "),
        ("[zzzzzz]\n", "zzzzzz", ""),
        ("[store.zstr]\n", "store.zstr", "did you mean store.zstor? "),
        ("[zdbb]\nx = 1\n", "zdbb", "did you mean zdb? "),
        ('[log]\n"a\\nb" = 1\n', r"'log.a\nb'", ""),
    ],
)
def test_unknown_key(write: Write, text: str, key: str, hint: str) -> None:
    """An unknown key is refused by name, with the nearest known one."""
    path = write(text)
    assert refused(path, {}, key) == f"is no known key; {hint}correct it in {path}"


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        (
            "HOOKD_HOOK__SOKET",
            "is no known setting; did you mean HOOKD_HOOK__SOCKET? rename or unset it",
        ),
        (
            "HOOKD_store__kind",
            "is no known setting; did you mean HOOKD_STORE__KIND? rename or unset it",
        ),
        ("HOOKD_STORE__ZSTOR", None),
        ("HOOKD_QQQ__QQQ", "is no known setting; rename or unset it"),
        ("HOOKD_STORE_KIND", "sets nothing; write HOOKD_STORE__KIND"),
        ("HOOKD_DRAIN_TIMEOUT_S", "sets nothing; write HOOKD_DRAIN__TIMEOUT_S"),
    ],
)
def test_unknown_variable(base: dict[str, str], variable: str, reason: str | None) -> None:
    """A variable that is one of ours but for a slip is refused by name, its value unseen."""
    found = refused(None, base | {variable: "hunter2"}, variable)
    assert "hunter2" not in found
    assert found == reason or (reason is None and "is no known setting" in found)


@pytest.mark.parametrize("variable", ["HOOKD_MOUNT_PATH", "HOOKDX__Y", "OTHER__KEY", "HOOKD_"])
def test_variables_of_others(base: dict[str, str], variable: str) -> None:
    """Variables that are nobody's slip are left alone."""
    assert load(None, base | {variable: "x"}) == load(None, base)


@pytest.mark.parametrize(
    ("key", "toml", "reason"),
    [
        ("hook.max_connections", "0", "0 is not a whole number from 1 to 65536"),
        ("hook.max_connections", '"many"', "'many' is not a whole number from 1 to 65536"),
        ("hook.max_connections", "true", "true is not a whole number from 1 to 65536"),
        ("hook.max_connections", "1.5", "1.5 is not a whole number from 1 to 65536"),
        ("hook.max_connections", '"7"', "'7' is not a whole number from 1 to 65536"),
        ("hook.frame_timeout_s", "nan", "nan is not a number of seconds from 0.1 to 3600"),
        ("hook.frame_timeout_s", "inf", "inf is not a number of seconds from 0.1 to 3600"),
        ("hook.frame_timeout_s", "1979-05-27", None),
        ("hook.socket", '"run/x.sock"', None),
        ("hook.socket", "{ a = 1 }", None),
        ("hook.spool", '"~/spool"', "'~/spool' is not an absolute path"),
        ("hook.spool", '"/a\\u0000b"', "'/a\\x00b' is not an absolute path"),
        ("hook.spool", "3", "3 is not an absolute path"),
        ("hook.allow_users", '"zdb"', "'zdb' is not a list of user names and numeric user ids"),
        ("hook.allow_users", "[-1]", "[-1] is not a list of user names and numeric user ids"),
        ("hook.allow_users", "[true]", None),
        ("stats.prometheus_port", "65536", "65536 is not a whole number from 1 to 65535"),
        ("stats.prometheus_address", '""', "'' is not text of at least one character"),
        ("snapshot.max_bytes", '"4 gigs"', None),
        ("snapshot.max_bytes", '"-1"', None),
        ("snapshot.max_bytes", "0", None),
        ("snapshot.max_bytes", "9223372036854775808", None),
        ("cache.max_bytes", "1.5", None),
        (
            "log.level",
            '"loud"',
            '\'loud\' is not "debug" or "info" or "warning" or "error"',
        ),
        ("log.format", "1", '1 is not "auto" or "console" or "json"'),
    ],
)
def test_wrong_value(write: Write, key: str, toml: str, reason: str | None) -> None:
    """A wrong type or a number out of range: key, value, what is expected, where to correct it."""
    section, _, name = key.partition(".")
    path = write(f"[{section}]\n{name} = {toml}\n")
    expects = next(setting.expects for setting in ALL if setting.key == key)
    found = refused(path, {}, key)
    assert found.endswith(f" is not {expects}; correct it in {path}")
    assert reason is None or found.startswith(f"{reason};")


@pytest.mark.parametrize("address", ["127.0.0.1:9900", "tcp://h:0", "tcp://h:70000", "tcp://h"])
def test_wrong_address(base: dict[str, str], address: str) -> None:
    """An address needs its scheme and a port that exists."""
    reason = refused(None, base | {"HOOKD_ZDB__ADDRESS": address}, "zdb.address")
    assert reason == (
        f'\'{address}\' is not "tcp://host:port" or "unix:///path"; correct HOOKD_ZDB__ADDRESS'
    )


def test_wrong_value_from_the_environment(base: dict[str, str]) -> None:
    """The line names the variable to correct; what would break the line is escaped."""
    reason = refused(None, base | {"HOOKD_DISPATCH__WORKERS": "a\nb\x1b"}, "dispatch.workers")
    assert reason == (
        r"'a\nb\x1b' is not a whole number from 1 to 256; correct HOOKD_DISPATCH__WORKERS"
    )


def test_a_long_value_is_cut(base: dict[str, str]) -> None:
    """One line stays readable."""
    reason = refused(None, base | {"HOOKD_LOG__LEVEL": "x" * 10_000}, "log.level")
    assert len(reason) < 300


def test_a_section_is_a_table(base: dict[str, str], write: Write) -> None:
    """A value where a table belongs is told what to write."""
    path = write('hook = "/run/x"\n', whole=True)
    assert refused(path, base, "hook") == (
        f"is a table, not a value; write [hook] with its keys; correct it in {path}"
    )


@pytest.mark.parametrize("key", [s.key for s in ALL if s.default is REQUIRED])
def test_needed_key(base: dict[str, str], key: str) -> None:
    """A key without a default is asked for, with both ways to set it."""
    variable = next(setting.environment for setting in ALL if setting.key == key)
    environ = base | {
        "HOOKD_STORE__ZSTOR__CONFIG": "/etc/zstor.toml",
        "HOOKD_STORE__ZSTOR__RESTART_COMMAND": "true",
        "HOOKD_STORE__RCLONE__REMOTE": "nas:zdb",
        "HOOKD_STORE__RCLONE__PROGRAM": "rclone",
    }
    del environ[variable]
    if key == "store.directory.path":
        assert "because store.kind = directory" in refused(None, environ, key)
    else:
        assert refused(None, environ, key) == (
            f"is needed; set it in the configuration file or by {variable}"
        )


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("directory", "store.directory.path"),
        ("zstor", "store.zstor.config"),
        ("rclone", "store.rclone.remote"),
    ],
)
def test_store_needs_its_table(base: dict[str, str], kind: str, key: str) -> None:
    """The kind of store decides which table is needed."""
    environ = base | {"HOOKD_STORE__KIND": kind}
    del environ["HOOKD_STORE__DIRECTORY__PATH"]
    assert refused(None, environ, key) == f"is needed because store.kind = {kind}; set it"


def test_unknown_store(base: dict[str, str]) -> None:
    """An unknown kind is told the known ones."""
    reason = refused(None, base | {"HOOKD_STORE__KIND": "s3"}, "store.kind")
    assert reason == '\'s3\' is not "zstor" or "directory" or "rclone"; correct HOOKD_STORE__KIND'


@pytest.mark.parametrize(
    "remote",
    [
        ':sftp,host=h,pass="hunter2":x',
        ":s3,env_auth=false,secret_access_key=hunter2:x",
        ':webdav,url="https://user:hunter2@host/":x',
    ],
)
def test_secret_in_a_remote(base: dict[str, str], remote: str) -> None:
    """A connection string is shown in logs, so it may not hold a secret; the line does not either."""
    environ = base | {"HOOKD_STORE__KIND": "rclone", "HOOKD_STORE__RCLONE__REMOTE": remote}
    reason = refused(None, environ, "store.rclone.remote")
    assert "rclone's own configuration" in reason
    assert "hunter2" not in reason


@pytest.mark.parametrize("remote", ["nas:", "nas:zdb/a", "/srv/x", ':webdav,url="http://[::1]:8":'])
def test_rclone_remote(base: dict[str, str], remote: str) -> None:
    """What rclone takes for a remote, a folder included."""
    environ = base | {"HOOKD_STORE__KIND": "rclone", "HOOKD_STORE__RCLONE__REMOTE": remote}
    config = load(None, environ)
    assert config.store.rclone is not None
    assert config.store.rclone.remote == remote


def test_a_remote_that_is_a_relative_folder(base: dict[str, str]) -> None:
    """A name without its colon is a mistake, not a folder beside some working directory."""
    environ = base | {"HOOKD_STORE__KIND": "rclone", "HOOKD_STORE__RCLONE__REMOTE": "nas"}
    assert "not a remote" in refused(None, environ, "store.rclone.remote")


def test_rclone_folder_in_a_root_of_zdb(base: dict[str, str]) -> None:
    """A store inside what it stores would feed on itself, by whatever means it is reached."""
    remote = base["HOOKD_ZDB__DATA"] + "/x"
    environ = base | {"HOOKD_STORE__KIND": "rclone", "HOOKD_STORE__RCLONE__REMOTE": remote}
    assert "lies inside zdb.data" in refused(None, environ, "store.rclone.remote")


def test_backoff_bounds_fit(base: dict[str, str]) -> None:
    """The first pause is no longer than the longest."""
    environ = base | {"HOOKD_DISPATCH__BACKOFF_BASE_S": "10", "HOOKD_DISPATCH__BACKOFF_MAX_S": "5"}
    reason = refused(None, environ, "dispatch.backoff_base_s")
    assert reason == "10 is more than dispatch.backoff_max_s (5); make it smaller"


# -- sockets and folders ---------------------------------------------------------------------------


def test_socket_path_limit_is_the_kernel_s(base: dict[str, str], tmp_path: Path) -> None:
    """The longest path that is accepted can be bound; one byte more is refused, and cannot be."""
    folder = Path("/tmp") if len(str(tmp_path)) > 90 else tmp_path
    name = "s" * (module.MAX_SOCKET_BYTES - len(f"{folder}/"))
    longest, longer = folder / name, folder / f"{name}s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(longest))
        longest.unlink()
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError, match="too long"):
        listener.bind(str(longer))
    for key, variable in (
        ("hook.socket", "HOOKD_HOOK__SOCKET"),
        ("stats.socket", "HOOKD_STATS__SOCKET"),
    ):
        assert load(None, base | {variable: str(longest)}).value(key) == longest
        assert "at most 107 bytes" in refused(None, base | {variable: str(longer)}, key)


def test_socket_path_is_counted_in_bytes(base: dict[str, str]) -> None:
    """The limit is one of bytes, not of characters."""
    refused(None, base | {"HOOKD_HOOK__SOCKET": "/" + "é" * 54}, "hook.socket")


def test_two_sockets(base: dict[str, str]) -> None:
    """Events and questions do not share a socket."""
    environ = base | {"HOOKD_STATS__SOCKET": "/run/hookd/hook.sock"}
    assert "is hook.socket too" in refused(None, environ, "stats.socket")


@pytest.mark.parametrize("name", ["index", "data"])
@pytest.mark.parametrize("what", ["absent", "file"])
def test_root_absent(base: dict[str, str], tmp_path: Path, name: str, what: str) -> None:
    """zdb's folders must be there: an unmounted disk is noticed at start."""
    (tmp_path / name).rmdir()
    if what == "file":
        (tmp_path / name).touch()
    assert refused(None, base, f"zdb.{name}") == (
        f"'{tmp_path}/{name}' is no folder on this disk; mount or create it first"
    )


def test_folders_of_the_daemon_need_not_exist(base: dict[str, str], tmp_path: Path) -> None:
    """Spool, staging, journal and store are the daemon's to create."""
    environ = base | {
        "HOOKD_HOOK__SPOOL": f"{tmp_path}/state/spool",
        "HOOKD_JOURNAL__PATH": f"{tmp_path}/state/journal.db",
    }
    config = load(None, environ)
    assert config.staging_path == tmp_path / "state" / "staging"
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "remote").exists()


@pytest.mark.parametrize(
    ("environ", "key", "relation"),
    [
        ({"ZDB__DATA": "index"}, "zdb.data", "is the same as zdb.index"),
        ({"ZDB__DATA": "link"}, "zdb.data", "is the same as zdb.index"),
        ({"ZDB__DATA": "index/in"}, "zdb.data", "lies inside zdb.index"),
        ({"ZDB__DATA": "link/in"}, "zdb.data", "lies inside zdb.index"),
        ({"ZDB__INDEX": "data/in"}, "zdb.index", "lies inside zdb.data"),
        (
            {"STORE__DIRECTORY__PATH": "data"},
            "store.directory.path",
            "is the same as zdb.data",
        ),
        (
            {"STORE__DIRECTORY__PATH": "link/x"},
            "store.directory.path",
            "lies inside zdb.index",
        ),
        ({"STORE__DIRECTORY__PATH": ""}, "zdb.index", "lies inside store.directory.path"),
        ({"SNAPSHOT__STAGING": "index/s"}, "snapshot.staging", "lies inside zdb.index"),
        ({"SNAPSHOT__STAGING": "data/s"}, "snapshot.staging", "lies inside zdb.data"),
        (
            {"SNAPSHOT__STAGING": "remote/s"},
            "snapshot.staging",
            "lies inside store.directory.path",
        ),
        ({"SNAPSHOT__STAGING": "spool"}, "snapshot.staging", "is the same as hook.spool"),
        ({"HOOK__SPOOL": "index/ns"}, "hook.spool", "lies inside zdb.index"),
        ({"HOOK__SPOOL": "remote"}, "hook.spool", "is the same as store.directory.path"),
        (
            {"JOURNAL__PATH": "data/j.db", "SNAPSHOT__STAGING": "s"},
            "journal.path",
            "lies inside zdb.data",
        ),
        ({"JOURNAL__PATH": "index/j.db"}, "snapshot.staging", "lies inside zdb.index"),
        (
            {"JOURNAL__PATH": "s/j.db", "SNAPSHOT__STAGING": "s"},
            "journal.path",
            "lies inside snapshot.staging",
        ),
    ],
)
def test_folders_are_apart(
    base: dict[str, str], tmp_path: Path, environ: dict[str, str], key: str, relation: str
) -> None:
    """No folder that somebody cleans, scans or stores is, or lies in, another, by any way there."""
    (tmp_path / "link").symlink_to(tmp_path / "index")
    for name in ("index/in", "data/in"):
        (tmp_path / name).mkdir()
    own = {"HOOKD_HOOK__SPOOL": f"{tmp_path}/spool"}
    changed = {f"HOOKD_{name}": f"{tmp_path}/{path}" for name, path in environ.items()}
    reason = refused(None, base | own | changed, key)
    assert f" {relation} (" in reason
    assert reason.endswith("; keep the two apart")


def test_a_similar_name_is_not_inside(base: dict[str, str], tmp_path: Path) -> None:
    """`index-staging` is beside `index`, not in it."""
    environ = base | {"HOOKD_SNAPSHOT__STAGING": f"{tmp_path}/index-staging"}
    assert load(None, environ).staging_path == tmp_path / "index-staging"


def test_an_unused_directory_store_is_not_compared(base: dict[str, str], tmp_path: Path) -> None:
    """With another kind of store, the directory store's folder is nobody's."""
    environ = base | {
        "HOOKD_STORE__KIND": "zstor",
        "HOOKD_STORE__ZSTOR__CONFIG": "/etc/zstor.toml",
        "HOOKD_STORE__DIRECTORY__PATH": f"{tmp_path}/data/x",
    }
    assert load(None, environ).store.kind == "zstor"


# -- secrets, descriptions, warnings ---------------------------------------------------------------


def test_the_password_is_shown_nowhere(base: dict[str, str]) -> None:
    """Not in a repr, not in what is logged; its value is there for who needs it."""
    config = load(None, base | {"HOOKD_ZDB__ADMIN_PASSWORD": "hunter2"})
    assert config.zdb.admin_password == "hunter2"
    assert config.secrets() == ("hunter2",)
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(config.describe())
    assert config.describe()["zdb.admin_password"] == "***"


def test_no_password_is_no_secret(base: dict[str, str]) -> None:
    """Nothing to hide, and it shows that there is nothing."""
    config = load(None, base)
    assert config.secrets() == ()
    assert config.describe()["zdb.admin_password"] is None


def test_a_wrong_password_is_not_shown(base: dict[str, str], write: Write) -> None:
    """An unquoted password of digits is told what is wrong without being repeated."""
    path = write("[zdb]\nadmin_password = 271828\n", whole=True)
    reason = refused(path, base, "zdb.admin_password")
    assert reason == f"the value (not shown) is not text; correct it in {path}"


def test_password_from_a_file(base: dict[str, str], tmp_path: Path) -> None:
    """Its content without the line end is the password, and as secret as any."""
    path = tmp_path / "secret"
    path.write_text("hunter2\n")
    config = load(None, base | {"HOOKD_ZDB__ADMIN_PASSWORD_FILE": str(path)})
    assert config.zdb.admin_password == "hunter2"
    assert config.secrets() == ("hunter2",)
    assert "hunter2" not in repr(config)


def test_password_and_file(base: dict[str, str], write: Write, tmp_path: Path) -> None:
    """Both in one place are a mistake; a variable of either kind stands before the file's keys."""
    (tmp_path / "secret").write_text("hunter2")
    both = base | {
        "HOOKD_ZDB__ADMIN_PASSWORD": "other",
        "HOOKD_ZDB__ADMIN_PASSWORD_FILE": f"{tmp_path}/secret",
    }
    reason = refused(None, both, "zdb.admin_password_file")
    assert reason == "is given beside zdb.admin_password; keep one of the two"
    zdb = '[zdb]\nindex = "{tmp}/index"\ndata = "{tmp}/data"\n'
    path = write(f'{zdb}admin_password_file = "{{tmp}}/secret"\n', whole=True)
    by_variable = load(path, base | {"HOOKD_ZDB__ADMIN_PASSWORD": "other"})
    assert by_variable.zdb.admin_password == "other"
    path = write(f'{zdb}admin_password = "other"\n', whole=True)
    by_file = load(path, base | {"HOOKD_ZDB__ADMIN_PASSWORD_FILE": f"{tmp_path}/secret"})
    assert by_file.zdb.admin_password == "hunter2"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read (No such file"), (b"\n", "is empty"), (b"\xff", "no text in UTF-8")],
)
def test_password_file_without_a_password(
    base: dict[str, str], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """Absent, empty, or no text: told, with the file."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    environ = base | {"HOOKD_ZDB__ADMIN_PASSWORD_FILE": f"{tmp_path}/secret"}
    text = refused(None, environ, "zdb.admin_password_file")
    assert reason in text and f"{tmp_path}/secret" in text


@pytest.mark.parametrize("name", ["default", "..", "a/b", "n" * 128])
def test_namespace_that_zdb_refuses(base: dict[str, str], name: str) -> None:
    """Told at the start, not by zdb."""
    refused(None, base | {"HOOKD_NAMESPACES__META__NAME": name}, "namespaces.meta.name")


@pytest.mark.parametrize("password", ["*", "x" * 64])
def test_password_that_zdb_misreads(base: dict[str, str], password: str) -> None:
    """NSSET takes `*` for none, and 63 bytes at most; the value is not shown."""
    environ = base | {"HOOKD_NAMESPACES__META__PASSWORD": password}
    assert "not shown" in refused(None, environ, "namespaces.meta.password")


def test_describe_has_every_key_in_plain_values(base: dict[str, str]) -> None:
    """What is logged at start is complete, and either log format can write it."""
    described = load(None, base).describe()
    assert list(described) == [setting.key for setting in ALL]
    assert described["hook.socket"] == "/run/hookd/hook.sock"
    assert described["zdb.skip_namespaces"] == ["zdbfs-temp"]
    assert described["store.zstor.config"] is None
    plain = (str, int, float, list, type(None))
    assert all(isinstance(value, plain) for value in described.values())


def test_warnings_name_what_has_no_effect(base: dict[str, str]) -> None:
    """Keys of a later version are accepted, and said to do nothing."""
    assert load(None, base).warnings() == ()
    environ = base | {
        "HOOKD_CACHE__MAX_BYTES": "1GiB",
        "HOOKD_AUDIT__INTERVAL_S": "3600",
        "HOOKD_STORE__ZSTOR__CONFIG": "/etc/zstor.toml",
        "HOOKD_STORE__ZSTOR__RESTART_COMMAND": "sv restart zstor",
    }
    assert load(None, environ).warnings() == (
        "cache.max_bytes: this version does not evict; the key has no effect",
    )


def test_frozen(base: dict[str, str]) -> None:
    """Nobody changes the configuration of a running daemon."""
    config = load(None, base)
    with pytest.raises(AttributeError):
        config.dispatch.workers = 1  # type: ignore[misc]


# -- whatever is written ---------------------------------------------------------------------------

SCALARS = (
    st.text(max_size=20)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.sampled_from(["/x", "/x/y", "none", "4GiB", "tcp://h:1"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
NO_RESET = hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def loaded_or_refused(path: Path | None, environ: dict[str, str]) -> Config | ConfigError:
    """What `load` makes of it; any exception but a ConfigError of one line fails the test."""
    try:
        return load(path, environ)
    except ConfigError as error:
        refusal = error
    assert str(refusal).isprintable()
    assert refusal.key in {setting.key for setting in ALL}
    return refusal


@NO_RESET
@given(setting=st.sampled_from(ALL), text=st.text(max_size=30) | SCALARS.map(str))
def test_any_text_in_any_variable(base: dict[str, str], setting: Setting, text: str) -> None:
    """Whatever a variable holds, there is a Config or one line that names a key."""
    environ = base | {
        "HOOKD_STORE__ZSTOR__CONFIG": "/etc/zstor.toml",
        "HOOKD_STORE__RCLONE__REMOTE": "nas:zdb",
        setting.environment: text,
    }
    got = loaded_or_refused(None, environ)
    plain = setting.key not in (
        "zdb.address",
        "store.rclone.remote",
        "mount.subdirectory",
    ) and not setting.key.endswith(".name")
    if setting.bare is str and text.strip() and plain:
        assert isinstance(got, Config)
        assert got.value(setting.key) == text


@NO_RESET
@given(setting=st.sampled_from(ALL), value=VALUES | st.dictionaries(st.text(), VALUES, max_size=2))
def test_any_value_in_the_file(
    base: dict[str, str], monkeypatch: pytest.MonkeyPatch, setting: Setting, value: Any
) -> None:
    """Whatever type a key has in the file, there is a Config or one line that names a key."""
    table = value
    for part in reversed(setting.key.split(".")):
        table = {part: table}
    monkeypatch.setattr(module, "_parse", lambda source: table)
    others = {"ZSTOR__CONFIG": "/etc/zstor.toml", "RCLONE__REMOTE": "nas:zdb"}
    environ = {f"HOOKD_STORE__{name}": text for name, text in others.items()} | base
    environ.pop(setting.environment, None)
    got = loaded_or_refused(Path("/x.toml"), environ)
    if isinstance(value, dict):
        assert isinstance(got, ConfigError)
        assert got.key == setting.key


# -- the reference ---------------------------------------------------------------------------------


def as_toml(value: object) -> str:
    """A default as the reference writes it."""
    if value is REQUIRED:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    if isinstance(value, (str, Path)):
        return f'`"{value}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def reference_rows() -> dict[str, list[str]]:
    """Key → the other cells of its row, for every table row that starts with a key."""
    rows = {}
    for line in REFERENCE.read_text().splitlines():
        if line.startswith("| `"):
            key, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            rows[key.strip("`")] = cells
    return rows


def test_reference_names_every_key() -> None:
    """docs/reference/configuration.md has a row for each key, in order, and for nothing else."""
    assert list(reference_rows()) == [setting.key for setting in ALL]


SIZES = {
    1024**2: '`"1MiB"`',
    256 * 1024**2: '`"256MiB"`',
    4 * 1024**3: '`"4GiB"`',
    10 * 1024**3: '`"10GiB"`',
}


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.key)
def test_reference_is_right(setting: Setting) -> None:
    """Each row has the type, the default, the variable and a meaning."""
    kind, default, variable, meaning = reference_rows()[setting.key]
    expected = as_toml(setting.default)
    if "size" in kind and isinstance(setting.default, int):
        expected = SIZES[setting.default]
    assert default == expected
    assert variable == f"`{setting.environment}`"
    assert len(meaning) > 20
    words = {
        Path: "path", Secret: "text", str: "text", int: "number", float: "seconds", bool: "true or false"
    }  # fmt: skip
    if "size" in setting.expects:
        word = "size"
    elif get_origin(setting.bare) is Literal:
        word = "one of"
    else:
        word = words.get(setting.bare, "list")
    assert word in kind
