"""What a 502 or 503 of ours tells of the accounts and of the upstream, to whom: on a running proxy."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from fake_upstream import Answer, FakeUpstream
from harness import Reply, eventually
from rig import Rig

REDIRECT = Answer(302, ((b"location", b"https://inner.example/"), (b"content-length", b"0")))


class House(NamedTuple):
    """A running proxy with accounts a and b, and its keys by what they are for. Without one this machine may call."""

    rig: Rig
    keys: dict[str, str | None]

    def ask(self, who: str, **options: Any) -> Reply:
        """One exchange."""
        key = self.keys[who]
        credential = {} if key is None else {"credential": (b"x-api-key", key.encode())}
        return self.rig.ask(**credential, **options)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_open_loopback=True) as rig:
        rig.fresh("a", "b")
        keys: dict[str, str | None] = {
            "admin": rig.proxy.add_client_key("boss", "--role", "admin"),
            "client": rig.proxy.add_client_key("guest"),
            "limited": rig.proxy.add_client_key("tenant", "--accounts", "a-*"),
            "nobody": None,
        }
        house = House(rig, keys)
        eventually(lambda: [house.ask(who).status for who in keys], lambda found: set(found) == {200})
        yield house


def problem(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = reply.json()["error"]
    return found


def named(house: House, reply: Reply) -> set[str]:
    """Which of the accounts an answer names, in its head or body."""
    whole = json.dumps([str(reply.head.headers), reply.body.decode()])
    return {name for name in ("a", "b") if house.rig.name(name) in whole}


@pytest.mark.parametrize(
    ("who", "names", "sentence"),
    [
        ("admin", {"a", "b"}, "No account can serve this request ({a}: paused; {b}: paused)."),
        ("nobody", {"a", "b"}, "No account can serve this request ({a}: paused; {b}: paused)."),
        ("limited", {"a"}, "No account can serve this request ({a}: out of use)."),
        ("client", set(), "No account can serve this request."),
    ],
)
def test_a_503_names_accounts_to_whom_they_concern(house: House, who: str, names: set[str], sentence: str) -> None:
    rig = house.rig
    rig.renew("a", "b")
    for name in ("a", "b"):
        rig.change(name, paused=True)
    eventually(lambda: {each["reason"] for each in rig.health().values()}, lambda reasons: reasons == {"paused"})
    try:
        reply = house.ask(who)
    finally:
        for name in ("a", "b"):
            rig.change(name, paused=False)
        eventually(lambda: {each["reason"] for each in rig.health().values()}, lambda reasons: reasons == {"serving"})

    assert reply.status == 503
    assert problem(reply)["message"].startswith(sentence.format(a=rig.name("a"), b=rig.name("b")))
    assert named(house, reply) == names
    assert {each["name"] for each in problem(reply)["accounts"]} == {rig.name(name) for name in names}
    assert "paused" in rig.row()["error_message"]  # the owner reads why


@pytest.mark.parametrize(("who", "sees"), [("admin", True), ("nobody", True), ("limited", False), ("client", False)])
def test_a_502_tells_what_is_behind_the_proxy_to_whom_may_look_there(house: House, who: str, sees: bool) -> None:
    house.rig.renew("a", "b")
    for name in ("a", "b"):
        house.rig.script(name, always=REDIRECT)

    reply = house.ask(who)

    assert reply.status == 502
    told = "a redirect to inner.example" if sees else "no answer came that could be passed on"
    assert problem(reply)["message"] == f"The upstream could not be used: {told}."
    assert "inner.example" in house.rig.row()["error_message"]
