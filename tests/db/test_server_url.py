"""How a server is connected to: TLS off this machine."""

import pytest

from ccflare_core.db.server_url import parameters


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "%2Frun%2Fpostgresql", "127.0.0.2,[::1]:5433", ""])
def test_on_this_machine_libpq_decides_about_tls(host: str) -> None:
    assert "sslmode" not in parameters(f"postgresql://a@{host}/x", {})


@pytest.mark.parametrize("host", ["db.example.net", "10.0.0.7", "127.0.0.1,10.0.0.7"])
def test_off_this_machine_the_server_has_to_prove_who_it_is(host: str) -> None:
    url = f"postgresql://a@{host}/x"
    assert parameters(url, {})["sslmode"] == "verify-full"
    assert parameters(f"{url}?sslmode=require", {})["sslmode"] == "require"
    assert "sslmode" not in parameters(url, {"PGSSLMODE": "prefer"})
    assert parameters("postgresql://a@/x", {"PGHOST": host})["sslmode"] == "verify-full"
