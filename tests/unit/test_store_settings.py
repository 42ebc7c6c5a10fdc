"""Store settings accept what is documented, refuse the rest in one sentence, and never show a password."""

from pathlib import Path
from typing import Any

import pytest

from gradsight_store.settings import StoreSettings


@pytest.mark.parametrize(
    ("url", "shown", "arguments"),
    [
        ("redis://store", "redis://store", {"host": "store", "port": 6379, "db": 0}),
        ("redis://store:7000/3", "redis://store:7000/3", {"host": "store", "port": 7000, "db": 3}),
        ("redis://:pw%40@store?db=2", "redis://store?db=2", {"password": "pw@", "db": 2}),
        ("redis://me:pw@[::1]:7", "redis://[::1]:7", {"username": "me", "password": "pw", "host": "::1"}),
        ("rediss://store", "rediss://store", {"ssl": True, "ssl_ca_certs": None}),
        (
            "unix:///run/s.sock?db=1&password=pw",
            "unix:///run/s.sock?db=1",
            {"unix_socket_path": "/run/s.sock"},
        ),
        ("unix:///a%20b/s.sock", "unix:///a%20b/s.sock", {"unix_socket_path": "/a b/s.sock", "db": 0}),
    ],
)
def test_a_url_becomes_an_address_and_credentials(url: str, shown: str, arguments: dict[str, Any]) -> None:
    settings = StoreSettings(url=url)
    assert settings.url == shown
    assert settings.redis_arguments().items() >= arguments.items()


@pytest.mark.parametrize(
    "url",
    [
        "http://h:hunter2@b",
        "redis://:hunter2@",
        "unix://",
        "redis://:hunter2@h:99999",
        "redis://:hunter2@h/x",
        "redis://:hunter2@h:abc/0",
        "redis://h?password=hunter2&socket_timeout=9",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="store URL: ") as refused:
        StoreSettings(url=url)
    assert "hunter2" not in str(refused.value)


def test_the_password_is_never_shown() -> None:
    settings = StoreSettings(url="redis://me:hunter2@store")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.url


def test_the_password_file_wins_and_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    settings = StoreSettings(url="redis://:old@store", password_file=file)
    assert settings.redis_arguments()["password"] == "first"
    file.write_text("second\n")
    assert settings.redis_arguments()["password"] == "second"
    file.unlink()
    with pytest.raises(ValueError, match="password_file: cannot read"):
        settings.redis_arguments()


def test_the_environment_fills_what_is_not_given(tmp_path: Path) -> None:
    environ = {
        "GRADSIGHT_STORE": "rediss://store:1",
        "GRADSIGHT_STORE_CA_FILE": str(tmp_path / "ca.pem"),
        "GRADSIGHT_PROFILE": "fast",
    }
    settings = StoreSettings.from_environment(environ, url=None)
    assert (settings.url, settings.lease_s, settings.assignment_s) == ("rediss://store:1", 2.0, 0.5)
    assert settings.redis_arguments()["ssl_ca_certs"] == str(tmp_path / "ca.pem")
    assert StoreSettings.from_environment(environ, url="redis://other").url == "redis://other"
    assert StoreSettings.from_environment({}) == StoreSettings()


@pytest.mark.parametrize(
    "bad",
    [{"lease_s": 0}, {"command_timeout_s": -1.0}, {"log_max_events": 0}, {"assignment_s": float("nan")}],
)
def test_durations_and_bounds_are_positive(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: got .*, allowed: more than 0"):
        StoreSettings(**bad)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="profile: got 'slow', allowed: 'standard', 'fast'"):
        StoreSettings.from_environment({"GRADSIGHT_PROFILE": "slow"})
