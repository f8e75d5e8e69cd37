"""Origins, and what the name of a host alone says."""

import pytest

from ccflare_core.http.origins import Origin, Origins, are_origins, is_address, is_loopback, is_this_machine


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://panel.example", "https://panel.example:443"),
        ("HTTP://Panel.Example:8080", "http://panel.example:8080"),
        ("http://localhost", "http://localhost:80"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_origins_have_a_scheme_a_host_and_a_port(text: str, origin: str) -> None:
    assert str(Origin.parse(text)) == origin
    assert Origin.parse(origin) == Origin.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "",
        "panel.example",
        "ftp://panel.example",
        "https://",
        "https://panel.example/",
        "https://me@panel.example",
        "https://panel.example:0",
        "https://panel.example:65536",
        "https://[1::2::3]",
        "https://*.example",
        "https://-panel.example",
    ],
)
def test_other_texts_are_no_origin(text: str) -> None:
    assert Origin.parse(text) is None
    assert are_origins(text) is (text == "")


def test_lists_have_just_the_origins_in_them() -> None:
    origins = Origins.parse("https://panel.example, http://localhost:3000")
    assert origins.have("https://panel.example:443")
    assert not origins.have("http://panel.example")
    assert not origins.have("null")
    assert origins.name("localhost")
    assert not origins.name("evil.example")


def test_lists_name_what_is_no_origin() -> None:
    with pytest.raises(ValueError, match=r"'panel\.example' is no origin"):
        Origins.parse("https://a.example panel.example")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"])
def test_loopback_hosts_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "10.0.0.1", "::", "0.0.0.0", "localhost.example", "notlocalhost", ".localhost"])
def test_other_hosts_may_be_anywhere(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("host", "expected"), [("10.0.0.1", True), ("[::1]", True), ("localhost", False), ("", False)])
def test_addresses_are_no_names(host: str, expected: bool) -> None:
    assert is_address(host) is expected


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "::1%lo", "localhost", "LOCALHOST"])
def test_this_machine_has_loopback_addresses_and_one_name(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["", "a.localhost", "localhost.", "10.0.0.1", "fe80::1%eth0", "0.0.0.0"])
def test_names_that_a_server_may_be_asked_for_are_not_this_machine(host: str) -> None:
    assert not is_this_machine(host)
