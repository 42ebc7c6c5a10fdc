"""Where the store is and how patient everyone is with it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

DEFAULT_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The store's address, its time limits and the bounds of a job's log. Durations are in seconds.

    Credentials in the URL are moved to `username` and `password`, so that `url` can be shown and logged. The
    password never appears in the representation; `password_file` is read anew for every connection pool.

    Raises:
        ValueError: The URL is not one, or a duration or bound is not positive.
    """

    url: str = DEFAULT_URL
    """`redis://`, `rediss://` (TLS) or `unix://` address; the database as `/1` or `?db=1`."""
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    """Certificates to trust instead of the system's, for `rediss://`."""
    command_timeout_s: float = 1.0
    connect_timeout_s: float = 1.0
    lease_s: float = 15.0
    """A job's holder that renews for this long no more has lost it."""
    worker_lease_s: float = 15.0
    assignment_s: float = 2.0
    """A job that its worker has not claimed after this long goes to another."""
    log_max_events: int = 2_000
    """A job's log beyond this many events or `log_max_bytes` moves a prefix to the artifacts."""
    log_max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        url, username, password = _without_credentials(self.url)
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "username", self.username or username)
        object.__setattr__(self, "password", self.password or password)
        for name in (
            "command_timeout_s",
            "connect_timeout_s",
            "lease_s",
            "worker_lease_s",
            "assignment_s",
            "log_max_events",
            "log_max_bytes",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, allowed: more than 0")

    @classmethod
    def fast(cls, **settings: Any) -> Self:
        """Settings that notice a loss within two seconds: for tests, not for loaded machines."""
        return cls(**{"lease_s": 2.0, "worker_lease_s": 2.0, "assignment_s": 0.5, **settings})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **settings: Any) -> Self:
        """Settings from the environment: GRADSIGHT_STORE, its _PASSWORD_FILE and _CA_FILE, GRADSIGHT_PROFILE.

        What is given as an argument wins over the environment; arguments that are None count as not given.

        Raises:
            ValueError: GRADSIGHT_PROFILE is neither `fast` nor `standard`, or a setting is refused.
        """
        found: dict[str, Any] = {}
        if url := environ.get("GRADSIGHT_STORE"):
            found["url"] = url
        if password_file := environ.get("GRADSIGHT_STORE_PASSWORD_FILE"):
            found["password_file"] = Path(password_file)
        if ca_file := environ.get("GRADSIGHT_STORE_CA_FILE"):
            found["ca_file"] = Path(ca_file)
        found.update({name: value for name, value in settings.items() if value is not None})
        return cls.of_profile(environ.get("GRADSIGHT_PROFILE") or "standard", **found)

    @classmethod
    def of_profile(cls, profile: str, **settings: Any) -> Self:
        """The settings of a profile by name, `standard` or `fast`, with the given ones on top."""
        if profile not in ("standard", "fast"):
            raise ValueError(f"profile: got {profile!r}, allowed: 'standard', 'fast'")
        return cls.fast(**settings) if profile == "fast" else cls(**settings)

    def redis_arguments(self) -> dict[str, Any]:
        """Address and credentials for `redis.Redis` and `redis.asyncio.Redis`, without time limits.

        Raises:
            ValueError: `password_file` cannot be read.
        """
        parts = urlsplit(self.url)
        arguments: dict[str, Any] = {
            "username": self.username or None,
            "password": self._password() or None,
            "db": int(_database(parts)),
        }
        if parts.scheme == "unix":
            return {**arguments, "unix_socket_path": unquote(parts.path)}
        arguments |= {"host": parts.hostname, "port": parts.port or 6379}
        if parts.scheme == "rediss":
            arguments |= {"ssl": True, "ssl_ca_certs": str(self.ca_file) if self.ca_file else None}
        return arguments

    def _password(self) -> str:
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise ValueError(f"password_file: cannot read {self.password_file}: {reason}") from error


def _without_credentials(url: str) -> tuple[str, str, str]:
    """Split a store URL into (URL without credentials, user name, password). No message repeats the URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            "store URL: got another scheme, allowed: redis://HOST:PORT/DB, rediss://, unix:///PATH"
        )
    if parts.scheme == "unix" and not parts.path.strip("/"):
        raise ValueError("store URL: unix:// needs the path of a socket, as in unix:///run/valkey.sock")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("store URL: got no host, allowed: redis://HOST:PORT/DB")
    query = dict(parse_qsl(parts.query))
    if unknown := sorted(query.keys() - {"db", "username", "password"}):
        raise ValueError(f"store URL: got the option {unknown[0]!r}, allowed: db, username, password")
    database = _database(parts)
    if not database.isdecimal():
        raise ValueError(f"store URL: got the database {database!r}, allowed: a number")
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise ValueError("store URL: the port is not a number from 1 to 65535") from error
    username = unquote(parts.username or "") or query.get("username", "")
    password = unquote(parts.password or "") or query.get("password", "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    option = f"?db={query['db']}" if "db" in query else ""
    return f"{parts.scheme}://{host}{port}{parts.path}{option}", username, password


def _database(parts: SplitResult) -> str:
    named = dict(parse_qsl(parts.query)).get("db")
    return named or (parts.path.lstrip("/") if parts.scheme != "unix" else "") or "0"
