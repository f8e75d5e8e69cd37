"""Where a client key may stand, and that none of it goes further."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients.credentials import (
    TAKEN,
    has_credential,
    misplaced_key,
    run_label,
    take_keys,
    without_keys,
    without_taken,
)
from guard_kit import SECRET

OTHER = "ccf_" + "o" * 32


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-api-key", SECRET.encode()),
        (b"X-Api-Key", b" " + SECRET.encode()),
        (b"Authorization", b"Bearer " + SECRET.encode()),
        (b"authorization", b"bearer  " + SECRET.encode()),
        (b"authorization", basic(f"key:{SECRET}")),
        (b"authorization", basic(f"{SECRET}:")),
        (b"Proxy-Authorization", basic(f"key:{SECRET}")),
        (b"proxy-authorization", b"Bearer " + SECRET.encode()),
    ],
)
def test_where_a_key_is_found_and_what_is_left_there(name: bytes, value: bytes) -> None:
    rest = ((b"Host", b"x"), (b"x-other", b"y"))

    keys, fields = take_keys((rest[0], (name, value), rest[1]))

    assert keys == [SECRET]
    left = () if name.lower().startswith(b"proxy") else ((name, TAKEN),)
    assert fields == (rest[0], *left, rest[1])
    assert without_taken(fields) == rest
    assert not has_credential(fields)


@pytest.mark.parametrize("value", [b"Bearer sk-ant-oat01-mine", b"sk-ant", b"Basic !!", b"", basic("a:b")])
def test_what_is_no_key_of_ours_is_the_clients_own(value: bytes) -> None:
    fields = ((b"Authorization", value), (b"x-api-key", b"sk-ant-api03-mine"))
    assert take_keys(fields) == ([], fields)
    assert has_credential(fields)


@pytest.mark.parametrize("value", [b"Bearer " + SECRET.encode() + b", x", b"x" + SECRET.encode(), SECRET.encode() * 9])
def test_what_only_looks_like_a_key_opens_nothing_and_goes_nowhere(value: bytes) -> None:
    keys, fields = take_keys([(b"authorization", value)])
    assert (keys, fields) == ([], ((b"authorization", TAKEN),))


def test_the_same_key_twice_is_one_and_another_is_a_second() -> None:
    once = [(b"x-api-key", SECRET.encode()), (b"authorization", b"Bearer " + SECRET.encode())]
    assert take_keys(once)[0] == [SECRET]
    assert take_keys([*once, (b"proxy-authorization", basic(f"k:{OTHER}"))])[0] == [SECRET, OTHER]


names = st.sampled_from([b"x-api-key", b"Authorization", b"proxy-authorization", b"cookie"])


@given(st.lists(st.tuples(names, st.binary(max_size=80) | st.just(b"Bearer " + SECRET.encode()))))
def test_no_bytes_raise_and_no_key_stays(fields: list[tuple[bytes, bytes]]) -> None:
    _, kept = take_keys(fields)
    assert not any(SECRET.encode() in value for name, value in kept if name != b"cookie")


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"a": b"/v1/models", "b": b""}, ""),
        ({"a": b"/v1/models", "b": SECRET.encode()}, "b"),
        ({"a": b"/v1/models?key=" + SECRET.encode(), "b": SECRET.encode()}, "a"),
        ({"a": b"ccf_short and ccf_.not-a-key"}, ""),
        ({"a": b"key=" + SECRET.replace("_", "%5f").encode()}, "a"),
    ],
)
def test_where_a_key_does_not_belong(parts: dict[str, bytes], place: str) -> None:
    assert misplaced_key(parts.items()) == place


def test_what_holds_keys_is_left_without_them() -> None:
    key = SECRET.encode()
    assert without_keys(b"a=" + key + b"&b=" + key + b"&c=ccf_short") == b"a=(client key)&b=(client key)&c=ccf_short"
    assert without_keys(b"a=%20" + key.replace(b"_", b"%5F")) == b"a= (client key)"
    assert without_keys(b"a=%20ccf_short") == b"a=%20ccf_short"


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ((), ""),
        ((basic("run-1:"),), "run-1"),
        ((basic("run-1:-"),), "run-1"),
        ((basic(f"run-1:{SECRET}"), basic("run-1:")), "run-1"),
        ((basic(f"key:{SECRET}"),), ""),
        ((basic("run-1:"), basic("run-2:")), "run-"),
        ((b"Basic !!",), ""),
    ],
)
def test_a_run_is_the_user_of_the_proxys_address_and_two_are_an_unknown_one(
    values: tuple[bytes, ...], label: str
) -> None:
    fields = [(b"Host", b"run-3"), *((b"Proxy-Authorization", value) for value in values), (b"x-api-key", b"run-4")]

    assert run_label(fields) == label
