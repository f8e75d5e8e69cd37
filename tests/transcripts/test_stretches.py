"""What is found where a body differs, together with what was found before, is what the whole search finds."""

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import secret_contexts
from bodies_kit import ODD, turns
from ccflare_core.secrets import redact
from ccflare_core.secrets.redact import TooMuch
from ccflare_core.transcripts.changes import runs
from ccflare_core.transcripts.stretches import Searched, search

# What is looked for in parts, so that these meet in any order, with the borders of stretches between them.
BORDERS = (b'},{"', b'}],"', b'"}]},{"role":"user","content":[{"type":"text","text":"', b'}  ,\n { "', b'}\n]\n,\n"')
MARKS = (*(bytes([byte]) for byte in b"\"\\'`{}[],:=; \n<>"), b'\\"', b'\\\\"', b"\\n", b"</", b"\\/", b"\\u0022")
NAMES = (
    *(b"password", b'"token":"', b'"api_key": "', b'"api_key":["', b'","abcdefgh1', b"secret = ", b'"auth":'),
    *(b'\\"password\\":\\"', b'"name":"DB_PASSWORD"', b',"value":"', b"Cookie: a=", b"authorization: bearer "),
    *(b"--password ", b"login me password ", b"<password>", b"12345678", b"\\u007d", b"\\\\\\u0041", b"{x}", b"..."),
)
FORMS = (
    *(b"sk-ant-", b"sk-ant-api03-AbCdEf123456_xyz", b"AKIAPLANTED234567ABC", b"A" * 33, b"Q~", b":AA", b"-us12"),
    *(b"wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYab", b"eyJhbGciOiJIUzI1NiJ9", b"0123456789abcdef" * 2, b"+/" * 120),
    *(b'"kty":"oct"', b'"k":"', b"AbCdEfGh0123456789ijklmnop", b" -u admin:", b"db:5432:shop:app:", b"Bearer "),
    *(b"://user:", b"hunter2@", b"-----BEGIN PRIVATE KEY-----", b"-----END PRIVATE KEY-----"),
    *(b'"MIIEvQIBADANBgkqhkiG9w0BAQEF"', b"MIIEvQIBADANBgkqhkiG9w0BAQEF\\n"),
)
FILLING = (*(b"lorem ipsum " * (size // 12) for size in (30, 250, 700, 1300, 2600, 5000)), b"x" * 1500)
CONTEXTS = tuple(text.replace("{}", "Xk29vLq84mZt77Rw").encode() for text in secret_contexts._BY_NAME.values())
PARTS = st.sampled_from((*BORDERS * 6, *MARKS, *NAMES, *FORMS, *FILLING * 3, *CONTEXTS))


class Edit(NamedTuple):
    """Parts put in at a place for as many as stood there."""

    place: int
    replaced: int
    parts: list[bytes]

    def make(self, body: list[bytes]) -> list[bytes]:
        """The body as it is then."""
        at = self.place % (len(body) + 1)
        return [*body[:at], *self.parts, *body[at + self.replaced :]]


EDITS = st.builds(Edit, st.integers(0, 1000), st.sampled_from((0, 0, 0, 1, 2)), st.lists(PARTS, max_size=3))


def spans(body: bytes, earlier: Searched | None, **options: int) -> tuple[Searched, list[redact.Span]]:
    searched = search(body, earlier, runs(earlier.body, body) if earlier else (), **options)
    return searched, sorted(searched.spans)


@given(
    body=st.lists(PARTS, min_size=5, max_size=60), edits=st.lists(EDITS, max_size=4), least=st.sampled_from((1, 300))
)
def test_every_body_of_a_session_is_redacted_as_by_the_whole_search(
    body: list[bytes], edits: list[Edit], least: int
) -> None:
    earlier = None
    for edit in [Edit(0, 0, []), *edits]:
        body = edit.make(body)
        earlier, found = spans(b"".join(body), earlier, least=least)
        assert found == sorted(redact.find(b"".join(body)))


SECRETS = {
    "a secret that stays": [("sk-ant-api03-AbCdEf123456_xyzAbCdEf", "")],
    "a name, its value in the next piece": [('"x": {"password": ', '"hunter2hunter2"}')],
    "a name in JSON, its value in the next turn": [('{\\"password\\": \\"', 'hunter2\\"}')],
    "a list": [('{\\"tokens\\": [\\"abc123def\\", ', '\\"ghi456jkl\\"]}')],
    "a key in PEM": [("-----BEGIN PRIVATE KEY-----\\n" + "MIIEvQIBADAN" * 20, "-----END PRIVATE KEY-----")],
    "the lines of a key": [
        ("'-----BEGIN PRIVATE KEY-----'", "'MIIEvQIBADANBgkqhkiG9w0BAQEF' -----END PRIVATE KEY-----")
    ],
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_within_conversations_are_found_each_turn(name: str) -> None:
    """They come in two parts, which lie in one text, in two blocks, in two messages, and far from each other."""
    between = (
        " ",
        '"},{"type":"text","text":"',
        '"}]},{"role":"user","content":[{"type":"text","text":"',
        " a" * 20_000,
    )
    for first, second in SECRETS[name]:
        for gap in between:
            earlier = None
            for number, plain in enumerate(turns(8)):
                text = f'"text":"{first}{gap}{second if number > 2 else ""} '.encode()
                body = plain.replace(b'"text":"', text, 2) if number > 1 else plain
                earlier, found = spans(body, earlier)
                assert found == sorted(redact.find(body))


def test_a_secret_brings_back_no_search_of_all() -> None:
    bodies = [body.replace(b'"text":"', b'"text":"sk-ant-api03-AbCdEf123456_xyz ', 2) for body in turns(60)]
    earlier, found = spans(bodies[-2], None)
    searched, found = spans(bodies[-1], earlier)
    assert len(found) == 2
    known = {id(stretch) for stretch in earlier.stretches}
    assert sum(each.size for each in searched.stretches if id(each) not in known) < 60_000 < len(bodies[-1]) // 2


@pytest.mark.parametrize("name", ODD)
def test_odd_bodies_are_searched_whole(name: str) -> None:
    body = ODD[name]
    earlier, found = spans(body, None)
    assert found == sorted(redact.find(body))
    for changed in (
        body + b" ",
        body[:-1],
        body[: len(body) // 2] + b"password=hunter2hunter2" + body[len(body) // 2 :],
    ):
        assert spans(changed, earlier)[1] == sorted(redact.find(changed))


def test_what_is_remembered_is_not_shown() -> None:
    assert repr(search(ODD["ordinary"])) == "<Searched>"


def test_too_many_candidates_are_too_many_in_all_stretches_together() -> None:
    block = b'"text":"' + b"password=x " * 1000 + b'"},{'
    few, many = b'{"a":[{' + block * 49 + b'"end":1}]}', b'{"a":[{' + block * 51 + b'"end":1}]}'
    earlier, _ = spans(few, None)
    with pytest.raises(TooMuch):
        redact.find(many)
    with pytest.raises(TooMuch):
        search(many)
    with pytest.raises(TooMuch):
        search(many, earlier, runs(few, many))


def test_a_body_of_secrets_is_searched_in_stretches_that_double() -> None:
    """Else the time would grow with the square of the length, since a secret ends near each border."""
    source = random.Random(1)
    body = (
        b'{"a":[{'
        + b",".join(b'"token":"%032x"},{"b":1},{' % source.getrandbits(128) for _ in range(20_000))
        + b'"e":1}]}'
    )
    searched = search(body, least=1)
    assert sorted(searched.spans) == sorted(redact.find(body))
    assert len(searched.stretches) < 200
