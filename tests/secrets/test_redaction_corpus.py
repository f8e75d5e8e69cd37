"""How many secrets of a corpus are found, in how many places, and how much of ordinary text is blanked by mistake.

`scripts/test --long` reads ten times as much ordinary text. The tables are printed.
"""

import io
import json
import os
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from ccflare_core.secrets import redact
from secret_contexts import CONTEXTS, WRAPS, Context, source
from secret_formats import FORMATS, Format

IS_LONG = bool(os.environ.get("CCFLARE_LONG_TESTS"))
MEGABYTES = 20 if IS_LONG else 2
LONGEST_REST = 12
"""So many bytes of a secret in a row are no longer hidden."""

# --- secrets


def test_corpus_has_the_formats_and_places_that_it_is_to_have() -> None:
    assert len({form.shape for form in FORMATS}) == len(FORMATS) >= 120
    assert len({context.template for context in CONTEXTS}) == len(CONTEXTS) >= 40
    for form in FORMATS:
        value = form.make(source(form.name))
        assert form.expression.fullmatch(value), form.name
        assert value not in form.shape


class Trial(NamedTuple):
    """A secret in a place, and whether it was found."""

    form: Format
    context: Context
    wrap: str
    is_found: bool


def trials() -> Iterator[Trial]:
    for form in FORMATS:
        for context in CONTEXTS:
            for name, wrap in WRAPS.items():
                text, secret = context.around(form.make(source(form.name, context.name, name)))
                body, written = wrap(text), inside(wrap(secret))
                assert written in body
                yield Trial(form, context, name, not rests(written, blanked(body)))


def inside(body: str) -> str:
    """The secret as it is written in such a body: without what the wrap has around it."""
    if not body.startswith("{"):
        return body
    content: str = json.loads(body).get("content", "")
    if content:
        return json.dumps(content)[1:-1]
    return json.dumps(json.dumps(json.loads(json.loads(body)["partial_json"])["content"])[1:-1])[1:-1]


def blanked(text: str) -> str:
    return redact.redact(text.encode()).data.decode()


def rests(secret: str, body: str) -> bool:
    return any(secret[at : at + LONGEST_REST] in body for at in range(max(1, len(secret) - LONGEST_REST + 1)))


def test_secrets_of_the_corpus_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    done = list(trials())
    kinds = {
        "with a prefix": [trial for trial in done if trial.form.has_prefix],
        "without one, behind a name": [trial for trial in done if not trial.form.has_prefix and trial.context.named],
        "without one, in plain text": [trial for trial in done if not (trial.form.has_prefix or trial.context.named)],
        "all": done,
    }
    rates = {name: 100 * sum(trial.is_found for trial in found) / len(found) for name, found in kinds.items()}
    missed = Counter(trial.context.name for trial in done if not trial.is_found and trial.context.named)
    with capsys.disabled():
        print(f"\nsecrets found: {len(FORMATS)} formats, {len(CONTEXTS)} places, written in {len(WRAPS)} ways")
        for name, found in kinds.items():
            print(f"  {name:28}{rates[name]:7.2f} % of {len(found)}")
        print("  most missed behind a name:", ", ".join(f"{name} {count}" for name, count in missed.most_common(5)))
    assert rates["with a prefix"] >= 99
    assert rates["all"] >= 95
    worst = Counter(trial.form.name for trial in kinds["with a prefix"] if not trial.is_found).most_common(1)
    assert not worst or worst[0][1] <= len(CONTEXTS) * len(WRAPS) // 10, worst


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_stands_around_a_secret_stays(wrap: str) -> None:
    """But for a cookie's own name, and what a URL's path has behind a secret with a `/` in its alphabet."""
    for context in CONTEXTS:
        for form in FORMATS[::7]:
            text, secret = context.around(form.make(source(form.name, wrap)))
            body, written = WRAPS[wrap](text), inside(WRAPS[wrap](secret))
            before, after = body.split(written)
            found = blanked(body)
            if context.name not in ("cookie", "path"):
                assert found.startswith(before), (form.name, context.name)
                assert found.endswith(after), (form.name, context.name)
            if body.startswith("{"):
                json.loads(found)


# --- everything else

_TEXT = (".py", ".pyi", ".md", ".rst", ".txt", ".js", ".css", ".html", ".json", ".toml", "METADATA")
_NAME = re.compile(
    r"(?i)(token|secret|pass(word|wd|phrase)?|pwd|cookie|auth(orization)?|credentials?|[a-z]key|[_-]key)[\w.-]{0,20}"
    r"[\"'`\]\\]*\s*(=>|:=|[:=>]|\s)\s*[\w\"'\\\[(]*\Z"
)
_ADDRESS = re.compile(r"://[^\s/]*:\Z")


class Text(NamedTuple):
    """A file that was installed with the tests."""

    path: Path
    content: str


def texts() -> Iterator[Text]:
    """So many megabytes of what is installed: the files of all packages in an order that chance has made."""
    files = [
        Path(str(found.locate_file(file)))
        for found in sorted(metadata.distributions(), key=lambda found: found.name.lower())
        for file in sorted(found.files or (), key=str)
        if str(file).endswith(_TEXT) and ".." not in file.parts
    ]
    source("texts").shuffle(files)
    left = MEGABYTES * 1_000_000
    for path in files:
        if left > 0 and path.exists() and 0 < path.stat().st_size < 300_000:
            try:
                content = path.read_bytes().decode()
            except UnicodeDecodeError:
                continue
            left -= len(content)
            yield Text(path, content)


def is_a_mistake(text: str, start: int, end: int) -> bool:
    """Whether nothing says that this is a secret: no vendor's format, and no name in front of something literal."""
    value, before = text[start:end], text[max(0, start - 80) : start]
    if any(form.expression.fullmatch(value) for form in FORMATS if form.has_prefix):
        return False
    return not ((_NAME.search(before) or _ADDRESS.search(before)) and value.strip())


def tokens(code: str) -> list[tuple[int, str]]:
    """The code's tokens; of strings and comments only that they are there."""
    quiet = (tokenize.STRING, tokenize.COMMENT, tokenize.NL, getattr(tokenize, "FSTRING_MIDDLE", -1))
    found = tokenize.generate_tokens(io.StringIO(code).readline)
    return [(token.type, "" if token.type in quiet else token.string) for token in found]


@pytest.mark.timeout(900)
def test_ordinary_text_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    read = 0
    blanks: Counter[str] = Counter()
    mistakes: list[str] = []
    for path, content in texts():
        data = content.encode()
        read += len(data)
        spans = redact.find(data)
        for span in spans:
            start, end = (len(data[:edge].decode(errors="ignore")) for edge in span[:2])
            blanks[span.label] += 1
            if is_a_mistake(content, start, end):
                mistakes.append(f"{path.name}: {span.label} after {content[max(0, start - 40) : start]!r}")
        if path.suffix == ".py":
            assert_same_code(content, blanked(content))
            body = json.dumps({"content": content})
            assert_same_code(content, json.loads(blanked(body))["content"])
    versions = sorted({f"{found.name} {found.version}" for found in metadata.distributions()}, key=str.lower)
    with capsys.disabled():
        print(f"\nordinary text: {read / 1e6:.1f} MB of {', '.join(versions)}")
        print(f"  blanked: {dict(blanks)}; by mistake: {len(mistakes)}", *mistakes, sep="\n    ")
    assert read > MEGABYTES * 900_000
    assert len(mistakes) <= MEGABYTES


def assert_same_code(before: str, after: str) -> None:
    if before == after:
        return
    try:
        expected = tokens(before)
    except (tokenize.TokenError, SyntaxError):
        return  # a test's example of what does not parse
    assert tokens(after) == expected
