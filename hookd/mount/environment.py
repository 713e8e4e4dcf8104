"""Stage mount, its remotes: RCLONE_CONFIG_* variables, their *_FILE forms, and a given rclone.conf.

    environment (+ the file that RCLONE_CONFIG names) → `Remotes`: sections as rclone.conf has them

Pure but for reading the files that are named. Owns the invariant that every secret in the result
is registered with the log before anything else sees it.

rclone's own rule for the variables (fs/config): RCLONE_CONFIG_ + upper case of remote + _ + upper
case of option; which remotes there are is told by the variables that end in _TYPE. A secret that is given
for a whole kind of remote (RCLONE_WEBDAV_PASS) goes into the sections of that kind, for what stays in
rclone's environment can be read in /proc; a remote's own wins over it, as with rclone.
"""

from __future__ import annotations

import configparser
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import ConfigError
from hookd.log import register_secret
from hookd.mount.options import (
    FILE_OPTIONS,
    GLOBAL,
    PLACE_OPTIONS,
    REFERENCES,
    ends_as_place,
    is_obscured,
    is_secret,
    variables_of,
    without_secret,
)

PREFIX = "RCLONE_CONFIG_"
NO_REMOTE = frozenset({"RCLONE_CONFIG_PASS", "RCLONE_CONFIG_DIR"})
"""rclone's own variables with this prefix."""

_NO_SECRETS = frozenset({"true", "false", "0", "1"})
"""Values of switches that have such a word in their name (RCLONE_ASK_PASSWORD)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remotes:
    """What rclone has to know, and where to."""

    name: str
    """The remote that is mounted."""
    path: str
    """Below it: `folder/sub`, or empty."""
    sections: dict[str, dict[str, str]]
    """Remote → option → value, passwords as they were given."""
    given: frozenset[tuple[str, str]]
    """(remote, option) that came by the environment; those of a file are obscured already."""
    file: Path | None = None
    """A configuration file to be used as it is: the environment adds nothing to it."""
    taken: frozenset[str] = frozenset()
    """Variables whose values are in `sections`: rclone must not see them, it would take them first."""
    beside: tuple[tuple[str, str, str], ...] = ()
    """(remote, option, value) that rclone will take from the environment before `file`; of an
    encrypted one ("", variable, value)."""

    @property
    def target(self) -> str:
        """As rclone writes it; a path that begins with a slash keeps it (sftp, local)."""
        return f"{self.name}:{self.path}"

    @property
    def identity(self) -> str:
        """Names the place, the same over a change of passwords, or of remotes that it does not need."""
        parts = [self.target.rstrip("/")]
        places = {name: dict(options) for name, options in self.sections.items()}
        for name, option, value in self.beside:
            if name:
                places[name][option] = value
            else:
                parts.append(f"{option}={without_secret(option, value)}")
        for name in sorted(_reached(self.name, places)):
            options = places[name]
            parts += [
                f"{name}.{key}={without_secret(key, options[key])}"
                for key in PLACE_OPTIONS
                if key in options
            ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def passwords(self) -> list[tuple[str, str]]:
        """(remote, option) of every value that rclone wants obscured and that may be plain."""
        return [
            (name, option)
            for name, options in self.sections.items()
            for option in options
            if (name, option) in self.given and is_obscured(options.get("type", ""), option)
        ]


def read(remote_path: str, environ: Mapping[str, str]) -> Remotes:
    """The remotes of the environment. `remote_path` is `name:path`. Raises ConfigError."""
    name, colon, path = remote_path.partition(":")
    if not colon or not re.fullmatch(r"[\w.+@ -]+", name) or name.startswith(("-", " ")):
        if re.search(r"[,='\"]", remote_path) or remote_path.startswith(":"):
            raise ConfigError(  # and not a word of it: it may hold a password
                "mount.remote_path",
                "is a connection string, which everybody can read in the process list; write"
                " REMOTE_PATH=rshare:/ and give its options by RCLONE_CONFIG_RSHARE_TYPE and the like",
            )
        raise ConfigError(
            "mount.remote_path",
            f"{remote_path!r} is not of the form remote:path; write REMOTE_PATH=rshare:/ and say what"
            " rshare is by RCLONE_CONFIG_RSHARE_TYPE and the like",
        )
    if "\n" in path or "\0" in path:
        raise ConfigError("mount.remote_path", "has a line end in it; write remote:path")
    variables = {
        key.removeprefix(PREFIX): value
        for key, value in environ.items()
        if key.startswith(PREFIX) and key not in NO_REMOTE
    }
    _register_others(environ)
    sections, file = _from_file(environ, name, with_variables=bool(variables))
    given = _from_variables(name, variables, sections)
    by_type = _of_types(environ, sections)
    beside: list[tuple[str, str, str]] = []
    for variable, remote, option in by_type:
        value = environ[variable]
        if is_secret(option):
            register_secret(value)
        if file is not None:
            beside.append((remote, option, value))
        elif (remote, option) not in given:
            sections[remote][option] = value
    # rclone wants them obscured; given by hand they are as likely plain as the others
    given |= {(remote, option) for _, remote, option in by_type if file is None}
    if file is not None and not sections:  # encrypted: whatever may be of its remotes
        beside += [
            ("", variable, value)
            for variable, value in sorted(environ.items())
            if variable.startswith("RCLONE_") and ends_as_place(variable)
        ]
    if file is None and "type" not in sections.get(name, {}):
        raise ConfigError(
            "mount.remote_path",
            f"there is no remote {name!r}; set {PREFIX}{name.upper()}_TYPE (webdav, s3, sftp ...) and its"
            " other options, or let RCLONE_CONFIG name an rclone.conf that has it",
        )
    for remote, options in sections.items():
        for option, value in options.items():
            if re.search(r"[\r\n\0]", value) and not is_obscured(options.get("type", ""), option):
                raise ConfigError(
                    f"{PREFIX}{remote}_{option}".upper(), "has a line end in it; write one line"
                )
            if is_secret(option) or is_obscured(options.get("type", ""), option):
                register_secret(value)
    return Remotes(
        name=name,
        path=path,
        sections=sections,
        given=given,
        file=file,
        taken=frozenset(variable for variable, _, _ in by_type) if file is None else frozenset(),
        beside=tuple(beside),
    )


def _register_others(environ: Mapping[str, str]) -> None:
    """Every other secret that is meant for rclone, whatever becomes of it."""
    for key, value in environ.items():
        if (
            key.startswith(("RCLONE_", "AWS_", "AZURE_"))
            and not (key.startswith(PREFIX) and key not in NO_REMOTE)
            and is_secret(key.lower())
            and not key.endswith(("_FILE", "_COMMAND"))
            and value.lower() not in _NO_SECRETS
        ):
            register_secret(value)


def _reached(name: str, sections: Mapping[str, Mapping[str, str]]) -> set[str]:
    """`name`, the remotes that its options refer to, and so on."""
    found: set[str] = set()
    left = [name]
    while left:
        each = left.pop()
        if each in found or each not in sections:
            continue
        found.add(each)
        text = " ".join(sections[each].get(option, "") for option in REFERENCES)
        left += [other for other in sections if f"{other}:" in text]
    return found


def _of_types(
    environ: Mapping[str, str], sections: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, str, str]]:
    """(variable, remote, option) of RCLONE_WEBDAV_URL and the like, for every remote of that type.

    rclone takes them after RCLONE_CONFIG_*, but before a file.
    """
    found = []
    for remote, options in sections.items():
        kind = options.get("type", "")
        begins = variables_of(kind)
        found += [
            (variable, remote, variable.removeprefix(begins).lower())
            for variable in sorted(environ)
            if kind and variable.startswith(begins) and variable not in GLOBAL
        ]
    return found


def _from_file(
    environ: Mapping[str, str], name: str, *, with_variables: bool
) -> tuple[dict[str, dict[str, str]], Path | None]:
    """The sections of the file that RCLONE_CONFIG names, if it is there. Raises ConfigError."""
    named = environ.get("RCLONE_CONFIG")
    if not named or not Path(named).exists():  # the seed names one that nobody makes
        return {}, None
    path = Path(named).absolute()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError("RCLONE_CONFIG", f"{path} cannot be read ({reason})") from None
    if text.lstrip().startswith("# Encrypted rclone configuration File"):
        if with_variables:
            raise ConfigError(
                "RCLONE_CONFIG",
                f"{path} is encrypted, so the {PREFIX}* variables cannot be added to it; use one of both",
            )
        return {}, path
    parser = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=("#", ";"), default_section="\0"
    )
    try:
        parser.read_string(text)
    except configparser.Error as error:
        where = getattr(error, "lineno", None)
        shown = f" (line {where})" if where else ""
        raise ConfigError("RCLONE_CONFIG", f"{path} is no rclone.conf{shown}") from None
    sections = {remote: dict(parser[remote]) for remote in parser.sections()}
    return sections, (None if with_variables or name not in sections else path)


def _from_variables(
    mounted: str, variables: Mapping[str, str], sections: dict[str, dict[str, str]]
) -> frozenset[tuple[str, str]]:
    """Put the variables into `sections`; returns what they set. Raises ConfigError."""
    known = {remote.upper(): remote for remote in sections}
    for key in variables:
        if key.endswith("_TYPE"):
            known.setdefault(key.removesuffix("_TYPE"), key.removesuffix("_TYPE").lower())
    known[mounted.upper()] = mounted
    given = set()
    for key, value in sorted(variables.items()):
        remote = max((up for up in known if key.startswith(f"{up}_")), key=len, default=None)
        if remote is None:
            raise ConfigError(
                f"{PREFIX}{key}",
                f"belongs to no remote; the mounted one is {mounted!r}, so write"
                f" {PREFIX}{mounted.upper()}_..., or set the _TYPE of the other one",
            )
        option = key.removeprefix(f"{remote}_").lower()
        if option.endswith("_file") and option not in FILE_OPTIONS:
            option, value = option.removesuffix("_file"), _content(f"{PREFIX}{key}", value)
            if f"{remote}_{option.upper()}" in variables:
                raise ConfigError(f"{PREFIX}{key}", "is given beside the same without _FILE")
        if not option:
            raise ConfigError(f"{PREFIX}{key}", "names no option")
        sections.setdefault(known[remote], {})[option] = value
        given.add((known[remote], option))
    return frozenset(given)


def _content(variable: str, path: str) -> str:
    """What a *_FILE variable points to, without the one line end that editors add."""
    try:
        text = Path(path).read_bytes().decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(variable, f"{path!r} cannot be read ({reason})") from None
    return text.removesuffix("\n").removesuffix("\r")
