"""Stage mount, the options of remotes: which are secret, which say what place it is, how they are named.

Pure. Tables of what rclone knows (`rclone config providers`), and what follows from a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

OBSCURED_OPTIONS = frozenset(
    [
        "pass",
        "password",
        "password2",
        "key_file_pass",
        "file_password",
        "folder_password",
        "mailbox_password",
        "otp_secret_key",
        "library_key",
        "api_password",
        "client_certificate_password",
        "plex_password",
    ]
)
"""Options that rclone wants obscured, whatever the backend (`rclone config providers`, IsPassword)."""

OBSCURED_BY_TYPE = frozenset({("filen", "api_key"), ("netstorage", "secret")})

FILE_OPTIONS = frozenset(
    [
        "service_account_file",
        "service_principal_file",
        "shared_credentials_file",
        "sse_customer_key_file",
        "pubkey_file",
        "key_file",
        "config_file",
        "box_config_file",
        "known_hosts_file",
    ]
)
"""Options of rclone that end in _file themselves: their value is a path, not a *_FILE form."""

PLACE_OPTIONS = (
    "type",
    "url",
    "host",
    "port",
    "endpoint",
    "provider",
    "region",
    "share",
    "domain",
    "user",
    "username",
    "account",
    "account_name",
    "account_id",
    "remote",
    "bucket",
    "drive_id",
    "team_drive",
    "root_folder_id",
    "project_number",
    "namenode",
    "upstreams",
    "auth",
    "tenant",
    "storage_url",
    "satellite_address",
    "site",
    "share_name",
    "library",
    "namespace",
    "email",
    "apple_id",
    "hostname",
    "cloud_name",
    "base_folder_uuid",
    "root_folder_slug",
    "root_namespace",
    "root_prefix",
    "root_id",
    "shared_with_me",
    "shared_files",
    "shared_folders",
    "use_emulator",
    "workspace_id",
    "api_url",
    "doi",
    "mountid",
    "unix_socket",
    "tenant_url",
    "sas_url",
    "connection_string",
)
"""Options that say which place a remote is, as opposed to how it is reached."""

_SECRET_WORDS = (
    "pass",
    "secret",
    "token",
    "mnemonic",
    "credentials",
    "sas_url",
    "cookie",
    "phrase",
)
_SECRET_OPTIONS = frozenset(
    [
        "key",
        "key_pem",
        "api_key",
        "library_key",
        "master_key",
        "master_keys",
        "private_key",
        "private_access_key",
        "headers",
        "access_grant",
        "connection_string",
        "authorization",
        "session_id",
        "resource_key",
        "sse_customer_key",
        "sse_customer_key_base64",
    ]
)
_KEY_OF_AZURE = re.compile(r"\s*(AccountKey|SharedAccessSignature)\s*=", re.IGNORECASE)

REFERENCES = ("remote", "upstreams")
"""Options that name other remotes (crypt, alias, union, combine, chunker, ...)."""

_PREFIXES = {
    "google cloud storage": "GCS",
    "google photos": "GPHOTOS",
    "oracleobjectstorage": "OOS",
}
"""Types whose variables are not named as they are."""

GLOBAL = frozenset({"RCLONE_CACHE_DIR", "RCLONE_HTTP_PROXY"})
"""Variables of rclone itself that look like an option of a type."""


def without_secret(option: str, value: str) -> str:
    """Of azure's options that are place and secret in one, the place: a secret may change."""
    option = option.lower()
    if option.endswith("sas_url"):
        return value.partition("?")[0]
    if option.endswith("connection_string"):
        named = [part for part in value.split(";") if not _KEY_OF_AZURE.match(part)]
        return ";".join(sorted(filter(None, named)))
    return value


def is_obscured(kind: str, option: str) -> bool:
    """Whether rclone wants this option of a backend obscured."""
    return option in OBSCURED_OPTIONS or (kind, option) in OBSCURED_BY_TYPE


def is_secret(option: str) -> bool:
    """Whether a value of this option must not be seen: rather one too many."""
    return option in _SECRET_OPTIONS or any(word in option for word in _SECRET_WORDS)


def option_of(flag: str, sections: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a flag (`webdav-url`) sets an option of a backend that `sections` has, or of any backend
    an option that says which place a remote is.
    """
    name = flag.replace("-", "_").upper()
    if f"RCLONE_{name}" in GLOBAL:
        return False
    return any(
        f"RCLONE_{name}".startswith(variables_of(options.get("type", "")))
        for options in sections.values()
        if options.get("type")
    ) or ends_as_place(name)


def variables_of(kind: str) -> str:
    """How the variables of a type of remote begin."""
    return f"RCLONE_{_PREFIXES.get(kind) or re.sub(r'[ -]', '_', kind).upper()}_"


def ends_as_place(variable: str) -> bool:
    """Whether a variable sets an option that says which place a remote is, whatever its type."""
    return any(variable.endswith(f"_{option.upper()}") for option in PLACE_OPTIONS)
