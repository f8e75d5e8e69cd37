"""The owner's rules: which request they are about, and what follows where several are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccflare_core.clients.guardrails import (
    UNRULED,
    Guardrail,
    Guardrails,
    Hours,
    Patterns,
    Ruling,
    Said,
    Trait,
    Traits,
    listed,
)

NOON = 12 * 60


def noon() -> int:
    return NOON


SILENT: dict[Trait, Said] = dict.fromkeys((trait for trait in Trait if trait is not Trait.MODEL), ())


def traits(minute: int = NOON, models: Said = ("claude-opus-5-5",), **said: Said) -> Traits:
    return Traits(SILENT | {Trait[name.upper()]: each for name, each in said.items()}, lambda: minute, lambda: models)


def some(*texts: str) -> Patterns:
    return Patterns.of(texts)


def about(name: str = "r", hours: tuple[Hours, ...] = (), **patterns: str) -> Guardrail:
    conditions = tuple(
        (trait, some(*patterns[trait.name.lower()].split())) for trait in Trait if trait.name.lower() in patterns
    )
    return Guardrail(name, conditions, hours)


@pytest.mark.parametrize(
    ("rule", "asked", "matched"),
    [
        (about(), traits(), True),
        (about(project="shop-*"), traits(project=("shop-7",)), True),
        (about(project="shop-*"), traits(project=("Shop-7",)), False),
        (about(project="shop-*"), traits(), False),
        (about(project="shop-*"), traits(project=None), None),
        (about(project="shop cart"), traits(project=("cart",)), True),
        (about(project="café"), traits(project=("café",)), True),
        (about(project="cafe\N{COMBINING ACUTE ACCENT}"), traits(project=("café",)), True),
        (about(project="café"), traits(project=("cafe\N{COMBINING ACUTE ACCENT}",)), True),
        (about(tag="team=blue"), traits(tag=("a=b", "team=blue")), True),
        (about(model="*-opus-*"), traits(models=("claude-haiku-4-5", "claude-opus-5-5")), True),
        (about(model="*-opus-*"), traits(models=None), None),
        (about(client="ci", project="shop"), traits(client=("ci",), project=None), None),
        (about(client="ci", project="shop"), traits(client=("me",), project=None), False),
        (about(project="shop", model="x"), traits(project=None, models=("y",)), False),
        (about(run="run-*", session="s*", agent="a"), traits(run=("run-1",)), False),
    ],
)
def test_a_rule_is_about_what_meets_all_of_its_conditions(rule: Guardrail, asked: Traits, matched: bool | None) -> None:
    assert rule.matches(asked) is matched


@pytest.mark.parametrize(
    ("begin", "end", "inside", "outside"),
    [(9 * 60, 18 * 60, (540, 1079), (0, 539, 1080, 1439)), (22 * 60, 6 * 60, (1320, 1439, 0, 359), (360, 1319))],
)
def test_hours_are_from_when_they_begin_until_before_they_end(
    begin: int, end: int, inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    rule = about(hours=(Hours(begin, end),))

    assert [rule.matches(traits(minute)) for minute in inside] == [True] * len(inside)
    assert [rule.matches(traits(minute)) for minute in outside] == [False] * len(outside)


def test_models_are_looked_for_only_where_a_rule_is_about_them() -> None:
    def never() -> Said:
        raise AssertionError("nobody needs them")

    asked = Traits(SILENT | {Trait.PROJECT: ("shop",)}, noon, never)
    rules = Guardrails([about("a", project="cart"), about("b", project="shop")])

    assert [rule.name for rule in rules.of(asked).rules] == ["b"]


def test_without_a_rule_nothing_is_limited() -> None:
    assert Guardrails().of(traits()) is UNRULED
    assert UNRULED.may_use("anything")
    assert (UNRULED.told, UNRULED.order, UNRULED.limits_accounts, UNRULED.limits_models) == ("", (), False, False)
    assert UNRULED.objection_to_models(None) == UNRULED.objection_to_efforts(None) == ""


def test_what_was_found_for_one_request_is_not_taken_for_another() -> None:
    """Also where the cache is full."""
    rules = Guardrails([about("a", project="shop-*5"), about("b", model="m1"), about("c", hours=(Hours(0, 60),))])
    for n in range(2200):
        asked = traits(n % 1440, (f"m{n % 3}",), project=(f"shop-{n % 800}",))
        expected = ["a"] * (n % 800 % 10 == 5) + ["b"] * (n % 3 == 1) + ["c"] * (n % 1440 < 60)
        assert [rule.name for rule in rules.of(asked).rules] == expected


# --- accounts ---------------------------------------------------------------------------------------------------------

SPARE = Guardrail("spare", accounts=some("spare-*"))
NO_2 = Guardrail("no-2", not_accounts=some("*-2"))
FIRST = Guardrail("first", prefer=(some("spare-3"), some("spare-*")))
SECOND = Guardrail("second", prefer=(some("work"),))


def test_an_account_has_to_be_allowed_by_all_and_forbidden_by_none() -> None:
    ruling = Guardrails([SPARE, NO_2]).of(traits())

    assert [name for name in ("spare-1", "spare-2", "work") if ruling.may_use(name)] == ["spare-1"]
    assert ruling.keeping_from("work") is SPARE
    assert ruling.keeping_from("spare-2") is NO_2
    assert ruling.told == "by the rules spare and no-2"


def test_of_two_orders_the_first_one_counts() -> None:
    ruling = Guardrails([FIRST, SECOND]).of(traits())

    assert ruling.order is FIRST.prefer
    assert ruling.told == "by the rule first"


def test_a_rule_that_may_match_limits_and_gives_nothing() -> None:
    doubtful = Guardrail(
        "doubt",
        ((Trait.PROJECT, some("shop")),),
        accounts=some("a"),
        prefer=(some("a"),),
        models=some("claude-haiku-*"),
        replace="claude-haiku-4-5",
    )
    ruling = Guardrails([doubtful]).of(traits(project=None))

    assert ruling.doubtful == {"doubt"}
    assert not ruling.may_use("b")
    assert ruling.order == ()
    assert ruling.replacement(("claude-opus-5-5",)) is None
    assert ruling.objection_to_models(("claude-opus-5-5",)) != ""


# --- models and efforts -----------------------------------------------------------------------------------------------

CHEAP = Guardrail("cheap", models=some("claude-haiku-*", "claude-sonnet-*"), effort="medium")
CHEAPER = Guardrail("cheaper", models=some("claude-haiku-*"), effort="low")


@pytest.mark.parametrize(
    ("models", "objection"),
    [
        (("claude-haiku-4-5",), ""),
        (
            ("claude-opus-5-5", "claude-haiku-4-5"),
            "The rule cheap allows claude-haiku-*, claude-sonnet-* only, and this request asks for claude-opus-5-5.",
        ),
        (
            ("claude-sonnet-5",),
            "The rule cheaper allows claude-haiku-* only, and this request asks for claude-sonnet-5.",
        ),
        (
            None,
            "The rule cheap allows claude-haiku-*, claude-sonnet-* only, and it cannot be told which models this "
            "request asks for.",
        ),
    ],
)
def test_a_model_has_to_be_allowed_by_all(models: Said, objection: str) -> None:
    assert Ruling((CHEAP, CHEAPER)).objection_to_models(models) == objection


@pytest.mark.parametrize(
    ("efforts", "objection"),
    [
        (("low",), ""),
        (("medium",), "The rule cheaper allows the effort low only, and this request asks for medium."),
        (("max",), "The rule cheap allows the efforts low and medium only, and this request asks for max."),
        (
            ("high",),
            "The rule cheap allows the efforts low and medium only, and this request asks for high, which is what none "
            "means.",
        ),
        (
            None,
            "The rule cheap allows the efforts low and medium only, and it cannot be told which one this request asks "
            "for.",
        ),
    ],
)
def test_an_effort_has_to_be_within_every_cap(efforts: Said, objection: str) -> None:
    assert Ruling((CHEAP, CHEAPER)).objection_to_efforts(efforts) == objection


def test_a_model_is_replaced_where_a_rule_says_so_and_it_is_not_allowed() -> None:
    rule = Guardrail("swap", models=some("claude-haiku-*"), replace="claude-haiku-4-5")
    ruling = Ruling((CHEAP, rule))

    assert ruling.replacement(("claude-opus-5-5",)) == "claude-haiku-4-5"
    assert ruling.replacement(("claude-haiku-5-5",)) is None
    assert ruling.replacement(("claude-opus-5-5", "claude-haiku-4-5")) is None
    assert ruling.replacement(None) is None
    assert Ruling((CHEAP,)).replacement(("claude-opus-5-5",)) is None


def test_joined_rulings_have_the_rules_of_both_and_the_doubts_of_neither_where_one_is_certain() -> None:
    joined = Ruling((CHEAP, SPARE), frozenset({"spare"})).joined(Ruling((SPARE, NO_2), frozenset({"no-2"})))

    assert [rule.name for rule in joined.rules] == ["cheap", "spare", "no-2"]
    assert joined.doubtful == {"no-2"}


# --- the strictest wins -----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
SOME_NAMES = st.none() | st.lists(NAMES, min_size=1, max_size=3).map(Patterns.of)
SAID = st.none() | st.lists(NAMES, max_size=2).map(tuple)
RULES = st.builds(
    Guardrail,
    name=st.uuids().map(str),
    conditions=st.lists(
        st.tuples(st.sampled_from([*Trait]), st.lists(NAMES, min_size=1).map(Patterns.of)), max_size=2
    ).map(tuple),
    accounts=SOME_NAMES,
    not_accounts=SOME_NAMES,
    models=SOME_NAMES,
    effort=st.none() | st.sampled_from(["low", "medium", "high", "xhigh"]),
)
ASKED = st.builds(
    lambda said, models: Traits(dict(zip(SILENT, said, strict=True)), noon, lambda: models),
    st.tuples(*[SAID] * len(SILENT)),
    SAID,
)


@settings(max_examples=50)
@given(rules=st.lists(RULES, max_size=5), more=RULES, asked=ASKED, name=NAMES)
def test_one_more_rule_allows_nothing_that_was_not_allowed_before(
    rules: list[Guardrail], more: Guardrail, asked: Traits, name: str
) -> None:
    before, after = Guardrails(rules).of(asked), Guardrails([*rules, more]).of(asked)

    assert before.may_use(name) or not after.may_use(name)
    assert not before.objection_to_models((name,)) or after.objection_to_models((name,))
    assert not before.objection_to_efforts(("high",)) or after.objection_to_efforts(("high",))


@settings(max_examples=50)
@given(
    rules=st.lists(RULES, max_size=5),
    said=st.tuples(*[SAID] * len(SILENT)),
    hidden=st.sampled_from([*SILENT]),
    name=NAMES,
)
def test_what_cannot_be_read_allows_nothing_that_any_reading_would_not(
    rules: list[Guardrail], said: tuple[Said, ...], hidden: Trait, name: str
) -> None:
    known = dict(zip(SILENT, said, strict=True))
    unread = Guardrails(rules).of(Traits(known | {hidden: None}, noon, lambda: ("a",)))
    read = Guardrails(rules).of(Traits(known, noon, lambda: ("a",)))

    assert read.may_use(name) or not unread.may_use(name)
    assert not read.objection_to_models((name,)) or unread.objection_to_models((name,))


def test_lists_read_as_sentences_do() -> None:
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
