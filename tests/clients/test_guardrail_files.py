"""The file of rules: what it says, and all of its mistakes at once."""

import contextlib
import textwrap
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccflare_core.clients import guardrail_files
from ccflare_core.clients.guardrail_files import RULE_LIMIT, parse
from ccflare_core.clients.guardrails import Guardrail, Hours, Patterns, Trait
from ccflare_core.errors import ConfigError

EXAMPLE = textwrap.dedent((guardrail_files.__doc__ or "").partition("\n")[2])


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "rules.yaml")
    return [*caught.value.problems]


def test_every_member_is_understood() -> None:
    (rule,) = parse(EXAMPLE.encode(), "rules.yaml").rules

    told = {
        "project": ["shop-*"],
        "client": ["ci", "ci-*"],
        "run": ["run-*"],
        "session": ["0f4*"],
        "tag": ["team=blue"],
        "agent": ["reviewer"],
        "class": ["title", "auxiliary"],
        "model": ["claude-opus-*"],
    }
    assert rule == Guardrail(
        "night",
        tuple((Trait(name), Patterns.of(texts)) for name, texts in told.items()),
        (Hours(22 * 60, 6 * 60),),
        accounts=Patterns.of(["spare-*", "night"]),
        not_accounts=Patterns.of(["work"]),
        prefer=(Patterns.of(["night"]), Patterns.of(["spare-*"])),
        models=Patterns.of(["claude-haiku-*", "claude-sonnet-*"]),
        replace="claude-sonnet-5-5",
        effort="medium",
    )


def test_the_example_in_the_readme_is_understood() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    text = readme.partition("## Rules\n")[2].partition("```yaml\n")[2].partition("```")[0]

    work, night, thrifty = parse(text.encode(), "README.md").rules
    assert work.effects == ("accounts: work-* only",)
    assert (night.subject, night.replace) == (("client: ci", "hours: 22:00-06:00"), "claude-sonnet-5-5")
    assert thrifty.effects == ("accounts: all but reserve", "effort: at most medium")


def test_conditions_stand_in_the_order_of_what_they_cost() -> None:
    (rule,) = parse(b"a: {when: {model: x, project: y}, effort: low}", "rules.yaml").rules

    assert [trait for trait, _ in rule.conditions] == [Trait.PROJECT, Trait.MODEL]


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_a_file_without_a_rule_limits_nothing(text: str) -> None:
    assert len(parse(text.encode(), "rules.yaml")) == 0


def test_no_file_is_no_rule_and_one_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    assert len(guardrail_files.load(None)) == 0
    with pytest.raises(ConfigError, match="cannot be read"):
        guardrail_files.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "rules.yaml line 1: this is not YAML"),
        ("a: {accounts: *}", "what begins with * stands in quotes"),
        ("a: {accounts: [*-b]}", "what begins with * stands in quotes"),
        ("a: {effort: low}\0", "rules.yaml: this is not YAML (it is no plain text: save it as UTF-8)"),
        ("[" * 1000, "rules.yaml: this is not YAML (too much stands in one another)"),
        ("- a", "line 1: the file must hold names and values"),
        ("a: 5", "line 1: rule a must hold names and values"),
        ("a: {}", "rule a does nothing; what it may have is accounts, not_accounts, prefer, models, replace, effort"),
        ("a: {effort: low, budget: 5}", "rule a has no budget; what may stand here is when, accounts, "),
        ("a: {effort: low, effort: high}", "effort stands twice in rule a"),
        ("a: {effort: low}\na: {effort: low}", "line 2: a stands twice in the file"),
        ("a: {effort: max}", "effort of rule a must be low, medium, high or xhigh"),
        ("a: {effort: [low]}", "effort of rule a must be one text"),
        ("a: {accounts: }", "accounts of rule a must be a text or a list of 1 to 100"),
        ("a: {accounts: []}", "accounts of rule a must be a text or a list of 1 to 100"),
        ("a: {accounts: [b, [c]]}", "accounts of rule a must be a text or a list of 1 to 100"),
        ("a: {accounts: [b, ~]}", "accounts of rule a must be a text or a list of 1 to 100"),
        ('a: {accounts: ""}', "accounts of rule a must be a text or a list of 1 to 100"),
        ('a: {accounts: "\\u202e"}', "accounts of rule a must be a text or a list of 1 to 100"),
        ("a: {models: m, replace: sonnet}", "replace of rule a must be a model's full name, such as claude-haiku-4-5"),
        ("a: {models: claude-haiku-*, replace: claude-opus-5}", "replace of rule a must be one of its models"),
        ("a: {replace: claude-opus-5}", "replace of rule a needs models: those that stay"),
        ("a: {when: {}, effort: low}", "when of rule a is empty; leave it out for every request"),
        (
            "a: {when: {projekt: x}, effort: low}",
            "when of rule a has no projekt; what may stand here is project, client,",
        ),
        ("a: {when: {tag: blue}, effort: low}", "tag in when of rule a must be name=value, such as team=*"),
        ("a: {when: {hours: 22-6}, effort: low}", "hours in when of rule a must be two times such as 22:00-06:00"),
        ("a: {when: {hours: 08:00-08:00}, effort: low}", "hours in when of rule a must be two times"),
        ("a: {when: {hours: 08:00-24:30}, effort: low}", "hours in when of rule a must be two times"),
        ('"a b": {effort: low}', "the name of a rule 'a b' has 1 to 100 letters, digits and _.@:- only"),
        ('"\\u001b[2J": {effort: low}', "the name of a rule '\\x1b[2J' has"),
        ("\n".join(f"r{n}: {{effort: low}}" for n in range(RULE_LIMIT + 1)), "201 rules, and there may be 200"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_rule_and_the_key(text: str, told: str) -> None:
    found = mistakes(text)

    assert any(told in each for each in found), found
    assert all(each.startswith("rules.yaml") and each.endswith(".") and each.isprintable() for each in found)


@pytest.mark.parametrize(
    "text", ["a: 5", "a: {acounts: b}", "a: {when: {projekt: x}, effort: low}", "a: {when: x, effort: low}"]
)
def test_what_is_not_understood_is_told_once(text: str) -> None:
    assert len(mistakes(text)) == 1


def test_a_file_in_another_encoding_is_told_how_to_save_it() -> None:
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        parse("a: {accounts: café}".encode("latin-1"), "rules.yaml")


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    found = mistakes("a:\n  effort: max\n  model: x\nb:\n  when: {hours: 1}\nc:\n  effort: low\n")

    assert [each.split(":")[0] for each in found] == [f"rules.yaml line {n}" for n in (2, 3, 5, 5)]


@given(
    text=st.text(alphabet=st.characters(codec="utf-8"), max_size=80)
    | st.binary(max_size=80).map(lambda data: data.decode("latin-1"))
)
@settings(max_examples=40)
@example(text="a: &a {when: *a}")
@example(text="<<: {a: b}")
@example(text="? [a]\n: b")
@example(text="!!set {a, b}")
def test_any_text_is_rules_or_mistakes(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text.encode(), "rules.yaml")


VALUES = st.sampled_from(["low", "xhigh", "claude-haiku-*", "claude-haiku-4-5", "a*", "22:00-06:00", "team=a"])
MEMBERS = st.sampled_from(["accounts", "not_accounts", "prefer", "models", "replace", "effort", "budget"])


@given(rule=st.dictionaries(MEMBERS, VALUES, max_size=4))
def test_nothing_is_accepted_and_then_ignored(rule: dict[str, str]) -> None:
    text = "a:\n" + "".join(f"  {name}: {value}\n" for name, value in rule.items()) if rule else "a: {}"
    try:
        (parsed,) = parse(text.encode(), "rules.yaml").rules
    except ConfigError:
        return
    fields = {name: getattr(parsed, name) for name in rule}
    assert all(value is not None and value != () for value in fields.values())
