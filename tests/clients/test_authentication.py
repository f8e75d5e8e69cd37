"""Who may call: which key counts, what it is for, and that none of it goes further."""

import base64
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients.authentication import (
    KEY_REQUIRED,
    LOCAL,
    PROXY_KEY_REQUIRED,
    TAKEN,
    Denied,
    Digest,
    Guard,
    Principal,
    Why,
    has_credential,
    take_keys,
    without_taken,
)
from ccflare_core.clients.keys import PERMISSIONS, ClientKey, Permission, Role, is_key, new_secret, valid_key_name
from exchange_kit import EPOCH
from guard_kit import PEPPER, SECRET, a_guard, a_key, digest, ring_of

OTHER = "ccf_" + "o" * 32


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


# --- the keys themselves ----------------------------------------------------------------------------------------------


def test_a_new_secret_has_192_bits_and_the_form_of_a_key() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(is_key(secret) and len(secret) == 36 for secret in secrets)


@pytest.mark.parametrize("text", ["", "ccf_", "ccf_short", "sk-ant-api03-" + "x" * 40, f" {SECRET}", f"{SECRET}\n"])
def test_what_is_no_key(text: str) -> None:
    assert not is_key(text)


@pytest.mark.parametrize(
    ("name", "is_valid"), [("laptop", True), ("a@b.c", True), ("", False), ("-x", False), ("a b", False), ("é", False)]
)
def test_names(name: str, is_valid: bool) -> None:
    assert valid_key_name(name) is is_valid


def test_which_models_and_accounts_a_key_may_use() -> None:
    key = a_key(models=("claude-haiku-*", "claude-sonnet-5"), accounts=("max-*",), not_accounts=("max-2",))

    assert [key.may_use_model(m) for m in ("claude-haiku-4-5", "claude-sonnet-5", "claude-opus-4-8", None)] == [
        True,
        True,
        False,
        False,
    ]
    assert [key.may_use_account(name) for name in ("max-1", "max-2", "work")] == [True, False, False]
    assert a_key().may_use_model(None)
    assert a_key().may_use_account("any")


def test_no_secret_is_in_a_repr() -> None:
    shown = repr((ring_of(a_key()), a_key(dollars_per_day=Decimal(5)), LOCAL))
    assert SECRET not in shown
    assert "digest" not in shown


def test_every_role_is_a_subset_of_the_admins() -> None:
    assert PERMISSIONS.keys() == set(Role)
    assert PERMISSIONS[Role.CLIENT] == {Permission.API_REQUEST}
    assert all(permissions <= PERMISSIONS[Role.ADMIN] for permissions in PERMISSIONS.values())


# --- who is who -------------------------------------------------------------------------------------------------------


def who(guard: Guard, *presented: str, is_local: bool = True) -> Principal | Denied:
    return guard.identify(presented, is_local=is_local)


def test_before_the_first_key_only_this_machine_is_served() -> None:
    guard = a_guard()
    assert not guard.has_keys
    assert who(guard) == LOCAL
    assert who(guard, is_local=False) == Denied(Why.MISSING)
    assert who(guard, OTHER) == Denied(Why.UNKNOWN)


def test_somebody_without_a_key_may_not_manage() -> None:
    assert not LOCAL.may(Permission.ACCOUNTS_MANAGE)
    assert LOCAL.may(Permission.API_REQUEST)


@pytest.mark.parametrize("is_local", [True, False])
def test_from_the_first_key_on_everybody_needs_one(is_local: bool) -> None:
    guard = a_guard(key := a_key())

    assert who(guard, is_local=is_local) == Denied(Why.MISSING)
    assert who(guard, OTHER, is_local=is_local) == Denied(Why.UNKNOWN)
    assert who(guard, SECRET, OTHER, is_local=is_local) == Denied(Why.UNKNOWN)
    assert who(guard, SECRET, is_local=is_local) == Principal(key, frozenset({Permission.API_REQUEST}))


@pytest.mark.parametrize(
    "over", [a_key(expires_at=EPOCH), a_key(revoked_at=EPOCH - 1), a_key(expires_at=EPOCH - 1, revoked_at=EPOCH - 1)]
)
def test_keys_that_are_all_over_do_not_open_the_door(over: ClientKey) -> None:
    guard = a_guard(over)
    assert guard.has_keys
    assert isinstance(who(guard), Denied)
    assert isinstance(who(guard, SECRET), Denied)
    assert guard.recall(Principal(over, over.role.permissions, SECRET)) == Denied(Why.EXPIRED, over)


def test_a_caller_is_recalled_by_his_secret_and_not_by_his_keys_name() -> None:
    now = EPOCH
    guard = a_guard(key := a_key(), now=lambda: now)
    caller = who(guard, SECRET)
    assert isinstance(caller, Principal)
    assert guard.recall(caller) == caller
    assert SECRET not in repr(caller)

    rotated = ring_of(key, secrets=(OTHER,))
    in_grace = {**rotated.digests, digest(SECRET, PEPPER): Digest(key.id, EPOCH + 60)}
    guard.replace(replace(rotated, digests=in_grace))
    assert guard.recall(caller) == caller
    now = EPOCH + 60
    assert guard.recall(caller) == Denied(Why.EXPIRED, key)
    now = EPOCH
    guard.replace(rotated)
    assert guard.recall(caller) == Denied(Why.EXPIRED, key)
    guard.replace(ring_of(replace(key, expires_at=EPOCH)))
    assert guard.recall(caller) == Denied(Why.EXPIRED, key)


def test_a_caller_without_a_key_is_recalled_until_there_is_one() -> None:
    guard = a_guard()
    assert guard.recall(LOCAL) == LOCAL
    guard.replace(ring_of(a_key()))
    assert guard.recall(LOCAL) == Denied(Why.MISSING)


def test_loopback_can_be_kept_open_but_not_for_a_wrong_key() -> None:
    guard = a_guard(a_key(), open_loopback=True)
    assert who(guard) == LOCAL
    assert who(guard, is_local=False) == Denied(Why.MISSING)
    assert who(guard, OTHER) == Denied(Why.UNKNOWN)


def test_a_guard_that_knows_nothing_yet_lets_nobody_in() -> None:
    guard = Guard(wall=lambda: EPOCH, clock=lambda: EPOCH)
    with pytest.raises(RuntimeError):
        who(guard)


def test_an_old_secret_is_valid_until_its_grace_is_over() -> None:
    now = EPOCH
    ring = ring_of(a_key())
    (digest,) = ring.digests
    guard = a_guard(a_key(), now=lambda: now)
    guard.replace(ring_of(a_key()))
    guard._known.digests[digest] = ring.digests[digest]._replace(until=EPOCH + 1)  # type: ignore[index]

    assert isinstance(who(guard, SECRET), Principal)
    now = EPOCH + 1
    assert who(guard, SECRET) == Denied(Why.EXPIRED, a_key())


def test_a_key_under_an_old_pepper_is_known_and_told_once() -> None:
    told: list[tuple[str, str]] = []
    guard = Guard(wall=lambda: EPOCH, clock=lambda: EPOCH, outdated=lambda key, secret: told.append((key, secret)))
    guard.replace(ring_of(key := a_key(), peppers=("11" * 8, "00" * 8)))

    assert [who(guard, SECRET) for _ in range(3)] == [Principal(key, key.role.permissions)] * 3
    assert told == [(key.id, SECRET)]


def test_refusals_are_alike_and_a_burst_is_reported_once() -> None:
    reports: list[tuple[str, Why, int]] = []
    guard = a_guard(a_key(), report=lambda source, denied, number: reports.append((source, denied.why, number)))

    answers = [guard.refuse(Denied(why), "10.0.0.9") for why in Why]
    tunnel = guard.refuse(Denied(Why.MISSING), "10.0.0.9", is_tunnel=True)
    late = [guard.refuse(Denied(Why.MISSING), "10.0.0.9").status for _ in range(10)]

    assert answers == [KEY_REQUIRED] * 4
    assert (KEY_REQUIRED.status, tunnel, PROXY_KEY_REQUIRED.status) == (401, PROXY_KEY_REQUIRED, 407)
    assert late == [401] * 5 + [429] * 5
    assert reports == [("10.0.0.9", Why.MISSING, 1)]
    assert isinstance(who(guard, SECRET), Principal)  # whoever has a key does not wait for his neighbour


@pytest.mark.parametrize("is_tunnel", [False, True])
def test_refusals_tell_programs_not_to_try_again_by_themselves(is_tunnel: bool) -> None:
    guard = a_guard(a_key())

    answers = [guard.refuse(Denied(Why.UNKNOWN), "10.0.0.9", is_tunnel=is_tunnel) for _ in range(20)]

    assert {answer.status for answer in answers} == {407 if is_tunnel else 401, 429}
    assert {dict(answer.headers)[b"x-should-retry"] for answer in answers} == {b"false"}


# --- where a key stands -----------------------------------------------------------------------------------------------


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
