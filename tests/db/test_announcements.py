"""What is announced of a change: of which tables, by whose connection, and nothing of what is stored."""

import pytest

from ccflare_core.db.announcements import KINDS, Channel, kind_changed
from ccflare_core.db.models import TABLES

CHANNEL = Channel.of("0123456789abcdef", "aa")


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ('INSERT INTO "scope_cooldowns" ("account_id") VALUES (%s) ON CONFLICT …', "limits"),
        ('UPDATE "accounts" SET "paused" = %s', "accounts"),
        ('DELETE FROM "blocked_addresses" WHERE …', "access"),
        ('INSERT INTO "requests" ("id") VALUES (%s)', None),
        ('SELECT "t1"."id" FROM "accounts" AS "t1"', None),
        ("UPDATE ccflare SET changes = changes + 1 RETURNING id", None),
    ],
)
def test_statements_tell_what_they_change(sql: str, kind: str | None) -> None:
    assert kind_changed(sql) == kind


def test_kinds_are_of_tables_that_there_are() -> None:
    assert KINDS.keys() <= {model._meta.table_name for model in TABLES}


def test_changes_of_others_are_news_and_own_ones_and_tests_are_not() -> None:
    other = CHANNEL._replace(origin="bb")
    assert CHANNEL.text({"limits", "accounts"}) == "aa accounts,limits"
    assert CHANNEL.news(other.text({"limits", "accounts"})) == {"limits", "accounts"}
    assert CHANNEL.news(CHANNEL.text({"limits"})) == frozenset()
    assert CHANNEL.news(other.test) == frozenset()


def test_a_text_is_small_whatever_has_changed() -> None:
    assert len(CHANNEL.text(set(KINDS.values()))) < 100
