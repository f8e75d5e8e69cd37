"""Who asks: which key counts, and what it is for."""

from dataclasses import replace
from decimal import Decimal

import pytest

from ccflare_core.clients.authentication import LOCAL, Authenticator, Digest, Identity, Principal, Why, identify
from ccflare_core.clients.keys import PERMISSIONS, ClientKey, Permission, Role, is_key, new_secret, valid_key_name
from exchange_kit import EPOCH
from guard_kit import PEPPER, SECRET, a_key, an_authenticator, digest, ring_of

OTHER = "ccf_" + "o" * 32


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
    assert PERMISSIONS[Role.CLIENT] == {Permission.API_REQUEST, Permission.SESSION_VIEW}
    assert all(permissions <= PERMISSIONS[Role.ADMIN] for permissions in PERMISSIONS.values())


# --- who is who -------------------------------------------------------------------------------------------------------


def who(authenticator: Authenticator, *presented: str, is_local: bool = True) -> Identity:
    return identify(
        authenticator.ring,
        presented,
        authenticator._wall(),
        is_local=is_local,
        open_loopback=authenticator.open_loopback,
    )


def nobody(why: Why, key: ClientKey | None = None) -> Identity:
    return Identity(None, why, key)


def somebody(key: ClientKey) -> Identity:
    return Identity(Principal(key, key.role.permissions), key=key)


def test_before_the_first_key_only_this_machine_is_served() -> None:
    authenticator = an_authenticator()
    assert not authenticator.has_keys
    assert who(authenticator) == Identity(LOCAL)
    assert who(authenticator, is_local=False) == nobody(Why.MISSING)
    assert who(authenticator, OTHER) == nobody(Why.UNKNOWN)


def test_somebody_without_a_key_may_not_manage() -> None:
    assert not LOCAL.may(Permission.ACCOUNTS_MANAGE)
    assert LOCAL.may(Permission.API_REQUEST)


@pytest.mark.parametrize("is_local", [True, False])
def test_from_the_first_key_on_everybody_needs_one(is_local: bool) -> None:
    authenticator = an_authenticator(key := a_key())

    assert who(authenticator, is_local=is_local) == nobody(Why.MISSING)
    assert who(authenticator, OTHER, is_local=is_local) == nobody(Why.UNKNOWN)
    assert who(authenticator, SECRET, OTHER, is_local=is_local) == nobody(Why.UNKNOWN)
    assert who(authenticator, SECRET, is_local=is_local) == somebody(key)


@pytest.mark.parametrize(
    "over", [a_key(expires_at=EPOCH), a_key(revoked_at=EPOCH - 1), a_key(expires_at=EPOCH - 1, revoked_at=EPOCH - 1)]
)
def test_keys_that_are_all_over_do_not_open_the_door(over: ClientKey) -> None:
    authenticator = an_authenticator(over)
    assert authenticator.has_keys
    assert who(authenticator).principal is None
    assert who(authenticator, SECRET).principal is None
    assert authenticator.recall(Principal(over, over.role.permissions, SECRET)) == nobody(Why.EXPIRED, over)


def test_a_caller_is_recalled_by_its_secret_and_not_by_its_keys_name() -> None:
    now = EPOCH
    authenticator = an_authenticator(key := a_key(), now=lambda: now)
    caller = who(authenticator, SECRET).principal
    assert caller is not None
    assert authenticator.recall(caller) == somebody(key)
    assert SECRET not in repr(caller)

    rotated = ring_of(key, secrets=(OTHER,))
    in_grace = {**rotated.digests, digest(SECRET, PEPPER): Digest(key.id, EPOCH + 60)}
    authenticator.replace(replace(rotated, digests=in_grace))
    assert authenticator.recall(caller) == somebody(key)
    now = EPOCH + 60
    assert authenticator.recall(caller) == nobody(Why.EXPIRED, key)
    now = EPOCH
    authenticator.replace(rotated)
    assert authenticator.recall(caller) == nobody(Why.EXPIRED, key)
    authenticator.replace(ring_of(replace(key, expires_at=EPOCH)))
    assert authenticator.recall(caller) == nobody(Why.EXPIRED, key)


def test_a_caller_without_a_key_is_recalled_until_there_is_one() -> None:
    authenticator = an_authenticator()
    assert authenticator.recall(LOCAL) == Identity(LOCAL)
    authenticator.replace(ring_of(a_key()))
    assert authenticator.recall(LOCAL) == nobody(Why.MISSING)


def test_loopback_can_be_kept_open_but_not_for_a_wrong_key() -> None:
    authenticator = an_authenticator(a_key(), open_loopback=True)
    assert who(authenticator) == Identity(LOCAL)
    assert who(authenticator, is_local=False) == nobody(Why.MISSING)
    assert who(authenticator, OTHER) == nobody(Why.UNKNOWN)


def test_an_authenticator_that_knows_nothing_yet_lets_nobody_in() -> None:
    authenticator = Authenticator(wall=lambda: EPOCH)
    with pytest.raises(RuntimeError):
        who(authenticator)


def test_an_old_secret_is_valid_until_its_grace_is_over() -> None:
    now = EPOCH
    ring = ring_of(a_key())
    (digest,) = ring.digests
    authenticator = an_authenticator(a_key(), now=lambda: now)
    authenticator.replace(ring_of(a_key()))
    authenticator.ring.digests[digest] = ring.digests[digest]._replace(until=EPOCH + 1)  # type: ignore[index]

    assert who(authenticator, SECRET).principal is not None
    now = EPOCH + 1
    assert who(authenticator, SECRET) == nobody(Why.EXPIRED, a_key())


def test_a_key_under_an_old_pepper_is_known_and_told_once() -> None:
    told: list[tuple[str, str]] = []
    authenticator = Authenticator(wall=lambda: EPOCH, outdated=lambda key, secret: told.append((key, secret)))
    authenticator.replace(ring_of(key := a_key(), peppers=("11" * 8, "00" * 8)))

    for _ in range(3):
        identity = who(authenticator, SECRET)
        assert identity == somebody(key)
        authenticator.renew(identity)
    assert told == [(key.id, SECRET)]


def test_failures_of_a_burst_are_reported_once() -> None:
    reports: list[tuple[str, Why | None, int]] = []
    authenticator = an_authenticator(
        a_key(), report=lambda source, who, number: reports.append((source, who.why, number))
    )

    for second in range(20):
        authenticator.count_failure("10.0.0.9", nobody(Why.MISSING), EPOCH + second / 100)

    assert reports == [("10.0.0.9", Why.MISSING, 1)]


@pytest.mark.parametrize(("key", "actor"), [(a_key(), "client:laptop"), (None, "")])
def test_an_identity_is_called_by_its_keys_name_in_the_audit_log(key: ClientKey | None, actor: str) -> None:
    assert nobody(Why.REVOKED, key).actor == actor
