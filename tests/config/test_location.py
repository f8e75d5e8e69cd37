"""What names a database: a path, a URL without a password, or what leads to a URL."""

from pathlib import Path

import pytest

from ccflare_core.config.location import Server, has_password, is_url, parse
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError

URLS = [
    "postgresql://ccflare@db.example.net/ccflare",
    "postgres://db.example.net:6432/ccflare?sslmode=verify-full&passfile=/etc/ccflare/pgpass",
    "postgresql://a@one,two:5433/ccflare?target_session_attrs=read-write",
    "postgresql://a@[::1]:5432/ccflare",
    "postgresql:///ccflare?host=/run/postgresql",
    "postgresql://a@%2Frun%2Fpostgresql/ccflare?options=-csearch_path%3Dours",
]


@pytest.mark.parametrize("text", [*URLS, "file:/etc/ccflare/url", "cmd:vault read -field=url secret/ccflare"])
def test_a_server_is_named_by_a_url_or_by_what_leads_to_one(text: str) -> None:
    assert Settings.build({"ccflare_database": text}).database == Server(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://a:PLANTED@host/ccflare",
        "postgresql://a@host/ccflare?password=PLANTED",
        "postgresql://a@host/ccflare?%70assword=PLANTED",
        "postgresql://a@host/ccflare?sslpassword=PLANTED",
        "postgresql://a:PLA@NTED@host/ccflare",
        "postgresql://a:50%PLANTED@host/ccflare",
        "postgresql://a@host",
        "postgresql://a@host/",
        "postgresql://a@host/ccflare#PLANTED",
        "postgresql://a@host/ccflare?sslmode",
        "postgresql://a@[::1/ccflare",
        "postgresql:a@host/ccflare",
        "file:",
        "cmd: ",
    ],
)
def test_what_is_no_such_url_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^ccflare_database: .* without a password") as caught:
        Settings.build({"ccflare_database": text})
    assert "PLANTED" not in str(caught.value)


def test_passwords_are_found_and_everything_else_is_a_path() -> None:
    assert [has_password(url) for url in URLS] == [False] * len(URLS)
    assert is_url("postgresql://a:100%25@host/ccflare")
    assert has_password("postgresql://a:100%25@host/ccflare")
    assert parse("./postgresql/ccflare.db") == Path.cwd() / "postgresql" / "ccflare.db"


def test_a_server_has_its_key_in_the_data_folder(tmp_path: Path) -> None:
    settings = Settings.build({"ccflare_database": URLS[0]}, {"XDG_DATA_HOME": str(tmp_path)})
    assert settings.key_path == tmp_path / "ccflare" / "ccflare.key"
