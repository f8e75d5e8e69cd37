"""Times, durations and messages, for people and for programs."""

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Iterator

import pytest

import ccflare_core
from ccflare_core.errors import CCFlareError
from ccflare_core.text import iso, local_time, sentence, some, span
from harness import REPOSITORY

NOW = 1_800_000_000.0  # Friday, 2027-01-15 08:00:00 UTC


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone that is not UTC: there it is 09:00."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("moment", "text"),
    [(None, None), (0.9, "1970-01-01T00:00:00Z"), (NOW, "2027-01-15T08:00:00Z"), (NOW + 0.999, "2027-01-15T08:00:00Z")],
)
def test_programs_are_told_times_in_utc(moment: float | None, text: str | None) -> None:
    assert iso(moment) == text


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (119, "09:01:59"),
        (-5, "08:59:55"),
        (120, "09:02"),
        (14 * 3600, "23:00"),
        (16 * 3600, "Sat 01:00"),
        (6 * 86_400, "Thu 21 Jan 09:00"),
    ],
)
def test_people_are_told_local_times_as_short_as_can_be(ahead: float, text: str) -> None:
    assert local_time(NOW + ahead, NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (45, "45 s"),
        (60, "1 min"),
        (1500, "25 min"),
        (3600, "1 h"),
        (6 * 3600, "6 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 days"),
        (72 * 3600, "3 days"),
    ],
)
def test_spans_have_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1204, "entry", "1,204 entries"),
        (2, "key", "2 keys"),
        (2, "address", "2 addresses"),
        (1, "address", "1 address"),
    ],
)
def test_some_is_one_or_many(number: int, noun: str, text: str) -> None:
    assert some(number, noun) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("there is no account called max-1: `list` shows all", "There is no account called max-1: `list` shows all."),
        ("work was renamed meanwhile: begin again", "work was renamed meanwhile: begin again."),
        ("/tmp/a.db: the database is damaged", "/tmp/a.db: the database is damaged."),
        ("ccflare_key_file: this is the database too", "ccflare_key_file: this is the database too."),
        ("Nothing was typed.", "Nothing was typed."),
        ("", ""),
    ],
)
def test_an_errors_message_alone_is_a_sentence(message: str, text: str) -> None:
    assert sentence(message) == text


def kinds(kind: type[CCFlareError]) -> Iterator[str]:
    yield kind.__name__
    for each in kind.__subclasses__():
        yield from kinds(each)


def messages() -> Iterator[tuple[str, str]]:
    """The beginning of every error's message in the domain, as far as it is a word of ours, and where it is raised."""
    for module in pkgutil.walk_packages(ccflare_core.__path__, "ccflare_core."):
        importlib.import_module(module.name)  # or some kinds would not be known
    ours = {*kinds(CCFlareError)}
    for path in (REPOSITORY / "addon" / "ccflare_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours and node.args:
                text = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield f"{path.name}:{node.lineno}", text.value


def test_every_error_of_the_domain_begins_a_sentence() -> None:
    """With one of the words that `sentence` knows, or with a name (an option, a program) that keeps its spelling."""
    found = [*messages()]
    assert len(found) > 80
    named = re.compile(r"ccflare_\w+:|[A-Z]")
    assert [(where, text) for where, text in found if sentence(text)[0].islower() and not named.match(text)] == []


def test_counts_get_their_plural_from_one_function() -> None:
    by_hand = re.compile(r"""["']e?s["'] \*|["']e?s["'] if |else ["']e?s["']""")
    found = [
        f"{path.name}:{number}"
        for path in (REPOSITORY / "addon").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if by_hand.search(line)
    ]
    assert [where.partition(":")[0] for where in found] == ["text.py"]
