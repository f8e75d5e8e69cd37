"""What comes along with a pasted secret comes off, and nothing of the secret does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_cli.pasting import unwrapped

SECRET = "sk-ant-api03-aB_9-Cd"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"  {SECRET}\r\n",
        f"\ufeff{SECRET}\r\n",
        f'"{SECRET}"',
        f"'{SECRET}'\n",
        f"`{SECRET}`",
        f"\u201c{SECRET}\u201d",
        f"ANTHROPIC_API_KEY={SECRET}",
        f'export ANTHROPIC_API_KEY="{SECRET}"\n',
        f"\ufeffexport ANTHROPIC_API_KEY = '{SECRET}' \r\n",
        f'$env:ANTHROPIC_API_KEY = "{SECRET}"',
        f"set ANTHROPIC_API_KEY={SECRET}",
        f'"ANTHROPIC_API_KEY={SECRET}"',
    ],
)
def test_what_is_around_a_secret_comes_off(text: str) -> None:
    assert unwrapped(text) == SECRET


@pytest.mark.parametrize("text", ["", '"', 'a"b', "abc=", "abc==", "two words", "sk-ant-x=y", '{"a": "b=c"}'])
def test_what_is_a_part_of_it_stays(text: str) -> None:
    assert unwrapped(text) == text


@given(st.from_regex(r"sk-ant-[a-z]{3}[0-9]{2}-[A-Za-z0-9_-]{4,90}", fullmatch=True))
def test_secret_of_the_provider_stays_as_it_is(secret: str) -> None:
    assert unwrapped(secret) == secret
    assert unwrapped(f"export NAME='{secret}'\r\n") == secret
