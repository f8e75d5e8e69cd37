"""Names of the proxy: what is one, and which requests mean it."""

import pytest

from ccflare_core.http.hosts import HostNames, are_hosts


def test_names_mean_the_port_that_is_listened_on_unless_they_have_one() -> None:
    names = HostNames.parse("Proxy.example, host.docker.internal:9090 [::1]:81")

    asked = (("proxy.example", 8080), ("proxy.example", 80), ("host.docker.internal", 9090), ("::1", 81))
    assert [names.have(*each, here=8080) for each in asked] == [True, False, True, True]
    assert not names.have("host.docker.internal", 8080, here=8080)
    assert not names.have("evil.proxy.example", 8080, here=8080)


@pytest.mark.parametrize("text", ["*", "*.example", "http://a", "a:0", "a:65536", "a/b", "-a", "a:b", "a@b", "ä"])
def test_what_is_no_name_is_refused(text: str) -> None:
    assert not are_hosts(text)


def test_nothing_is_no_name() -> None:
    assert HostNames.parse(" ,") == HostNames()
