"""What is taken for a secret, what is not, and that hostile input takes no longer than other input."""

import json
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccflare_core.secrets import by_form, redact
from ccflare_core.secrets.formats import RULES
from ccflare_core.secrets.redact import Span, TooMuch

TAIL = "PLANTED0123456789abcdefghijklmnopqrstuv"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJl-planted"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{TAIL}\n{TAIL}==\n-----END RSA PRIVATE KEY-----"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYPLANTEDKEY"

TOKENS = {
    "anthropic-key": f"sk-ant-oat01-{TAIL}",
    "client-key": f"ccf_{TAIL}",
    "openai-key": f"sk-proj-{TAIL}",
    "github-token": f"ghp_{TAIL}",
    "gitlab-token": f"glpat-{TAIL}",
    "slack-token": f"xoxb-1234-{TAIL}",
    "google-key": f"AIza{TAIL[:35]}",
    "stripe-key": f"sk_live_{TAIL}",
    "jwt": JWT,
    "private-key": PEM,
    "aws-key-id": "AKIAIOSFODNN7PLANTED",
    "bearer-token": f"Bearer {TAIL}",
}
ALL = [*TOKENS.values(), f"github_pat_{TAIL}"]


def blanked(text: str) -> str:
    return redact.redact(text.encode()).data.decode()


# --- what a secret looks like


@pytest.mark.parametrize("label", TOKENS)
def test_tokens_are_known_by_their_form(label: str) -> None:
    found = blanked(f"use {TOKENS[label]} for that")
    assert f"[redacted:{label}]" in found
    assert "planted" not in found.lower()
    assert (found[:4], found[-9:]) == ("use ", " for that")


@pytest.mark.parametrize("prefix", ["toolu_", "srvtoolu_", "msg_", "req_"])
def test_what_begins_as_an_id_is_searched_all_the_same(prefix: str) -> None:
    for secret in (*ALL, *(f"{literal}{TAIL}" for rule in RULES for literal in rule.literals)):
        other = "".join("x" if letter.isalnum() else letter for letter in prefix)
        ours, theirs = (redact.find(f'{{"id":"{begun}{secret}"}}'.encode()) for begun in (prefix, other))
        assert ours == theirs
    assert redact.find(f'{{"id":"{prefix}01A{TAIL}"}}'.encode()) == []


@pytest.mark.parametrize("name", ["d", "p", "q", "dp", "dq", "qi", "k", "id", "kd", "x", ""])
@pytest.mark.parametrize("form", ['{"%s":"', '{"%s": "', '{\\"%s\\":\\"', '{"%s\\":"', '\\"%s":"', '%s":"', 'a%s":"'])
def test_a_member_of_a_key_in_json_is_known_by_its_name(form: str, name: str) -> None:
    text = f'{{"kty":"oct"}} {form % name}'.encode()
    assert by_form._is_of_jwk(text, len(text)) == (by_form._JWK_MEMBER.search(text) is not None)


@pytest.mark.parametrize("secret", ALL)
@pytest.mark.parametrize("wrap", ['{"a":"x\\n%s\\n"}', "é%sé", "=%s", '{"b":["%s"]}', "%s"])
def test_whatever_stands_around_them(secret: str, wrap: str) -> None:
    text = wrap % secret.replace("\n", "\\n")
    assert "planted" not in blanked(text).lower()


@pytest.mark.parametrize(
    "text",
    [
        '{"password":"PLANTED"}',
        '{"db_password" : "PLANTED"}',
        '{"slackBotToken":"PLANTED","n":1}',
        '{"client_secret":"PLANTED \\" PLANTED"}',
        '{"api-key":["PLANTED", "PLANTED"],"n":[1]}',
        '{"x-api-key":"PLANTED"}',
        '{"set-cookie":"a=PLANTED"}',
        '{"proxy-authorization":"Basic PLANTED"}',
        json.dumps({"input": json.dumps({"password": "PLANTED", "n": 1})}),
        json.dumps({"input": json.dumps({"input": json.dumps({"token": 'PLANTED"PLANTED'})})}),
        json.dumps({"text": 'db.connect(password="PLANTED")'}),
        "{'password': 'PLANTED'}",
        "API_TOKEN=PLANTED-1",
        "export AWS_SECRET_ACCESS_KEY=PLANTED/1",
        "Authorization: Basic PLANTED",
        "curl -H 'Cookie: session=PLANTED; b=PLANTED'",
        "X-Api-Key: PLANTED-1",
        "postgres://me:PLANTED@host/db",
        f"AKIAIOSFODNN7EXAMPLE,{AWS_SECRET},us-east-1",
    ],
)
def test_values_are_known_by_their_name(text: str) -> None:
    found = blanked(text)
    assert "PLANTED" not in found
    assert "[redacted:" in found
    if text.startswith('{"'):
        json.loads(found)


def test_a_number_behind_such_a_name_stays_a_number() -> None:
    assert json.loads(blanked('{"password": 123456, "port": 80}')) == {"password": 0, "port": 80}


@pytest.mark.parametrize(
    "text",
    [
        '{"max_tokens":1024,"input_tokens":5,"cache_creation_input_tokens":7}',
        '{"properties":{"token":{"type":"string"},"password":{"type":"string"}}}',
        '{"type":"text","text":"a task-specific secret: nothing"}',
        '{"text":"the secret:","type":"x"}',
        '{"signature":"EqQBCkYIBRgCKkDrIAKIA0123"}',
        "token = await fetch_token()",
        'key = "value"; monkey: 3',
        "https://example.org:8080/a@b",
        "an eyJ is no token, a ghp_short is none, sk-ant-x neither",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "TOKEN=$TOKEN",
        "MAX_TOKENS=128000 PRIMARY_KEY=customer_number",
        "export SIGNING_KEY=/etc/ssl/private/one.pem",
        "disk-abcdefghijklmnop0123456789ABCDEFGH01",
        'password = getpass("Password: ")\nname = input("Name: ")',
        "password = getpass('Password: ')\nname = input('Name: ')",
        r'{"text":"password = getpass(\"Password: \")\nname = \"x\""}',
        "client.login(password=password, token=self.token, api_key=os.environ[NAME])",
        "the password for the administrator is not written here",
        "",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact.redact(text.encode()) == (text.encode(), 0)


def test_json_escapes_hide_nothing() -> None:
    secret = TOKENS["anthropic-key"]
    once = "".join(f"\\u{ord(char):04x}" for char in secret)
    assert blanked(f'{{"a":"x{once}y\\u00e9"}}') in ('{"a":"x[redacted:anthropic-key]\\u00e9"}',)
    twice = once.replace("\\", "\\\\")
    assert "u0073" not in blanked(f'{{"a":"{{\\"b\\":\\"{twice}\\"}}"}}')
    assert blanked('{"u":"https:\\/\\/me:PLANTED@host"}') == '{"u":"https:\\/\\/me:[redacted:password]@host"}'


def test_a_private_key_that_is_cut_takes_what_can_belong_to_it() -> None:
    cut = PEM.partition("-----END")[0].replace("\n", "\\n")
    assert blanked(f'{{"a":"{cut}"}}') == '{"a":"[redacted:private-key]"}'


def test_a_private_key_in_code_is_blanked_and_the_code_is_not() -> None:
    lines = PEM.split("\n")
    code = "key = (\n" + "".join(f'    "{line}\\n"\n' for line in lines) + ")\n"
    found = blanked(code)
    assert TAIL not in found
    assert found.startswith('key = (\n    "-----BEGIN RSA PRIVATE KEY-----\\n"\n    "[redacted')
    limits = 'START = b"-----BEGIN PRIVATE KEY-----"\nEND = b"-----END PRIVATE KEY-----"\n'
    assert blanked(limits) == limits


def test_a_string_that_is_cut_is_blanked_to_the_end() -> None:
    assert blanked('{"password":"PLANT') == '{"password":"[redacted:secret]'


def test_what_overlaps_is_one_secret() -> None:
    found = redact.redact(f'{{"token":"Bearer {TOKENS["anthropic-key"]}"}}'.encode())
    assert found == (b'{"token":"[redacted:secret]"}', 1)


def test_twice_is_as_good_as_once() -> None:
    once = blanked(f'{{"token":"x","a":"{JWT}"}} API_KEY=abcdefgh postgres://a:b@c')
    assert blanked(once) == once


# --- messages, headers


def test_a_message_for_people() -> None:
    assert redact.text(f"upstream says {TOKENS['anthropic-key']} \ud800") == (
        "upstream says [redacted:anthropic-key] \ud800"
    )
    assert redact.text('token":' * (redact.MOST_CANDIDATES + 1)) == "[redacted]"


@pytest.mark.parametrize(
    "name",
    [
        *(b"Authorization", b"x-api-key", b"COOKIE", b"Set-Cookie", b"Proxy-Authorization", b"X-CCFlare-OTP"),
        *(b"X-Api-Key ", b" authorization", b"X_API_KEY"),
        *(b"X-Auth-Token", b"Private-Token", b"Helicone-Auth", b"CF-Access-Client-Secret", b"Cf-Access-Jwt-Assertion"),
        *(b"Ocp-Apim-Subscription-Key", b"x-amz-security-token", b"apikey"),
    ],
)
def test_header_fields_that_carry_credentials(name: bytes) -> None:
    assert redact.headers([(b"accept", b"*/*"), (name, b"PLANTED")]) == (
        (b"accept", b"*/*"),
        (name, b"[redacted]"),
    )


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"Sec-WebSocket-Key", b"anthropic-beta", b"x-monkey", b"Keyed"])
def test_other_header_fields_are_shown(name: bytes) -> None:
    assert redact.headers([(name, b"1")]) == ((name, b"1"),)


# --- whatever comes


@given(st.binary(max_size=300) | st.text(alphabet="\\\"u0073kat-n{}:,[]password='e \n", max_size=200).map(str.encode))
@example(b'"token":"\\')
def test_any_bytes_at_all(data: bytes) -> None:
    spans = redact.find(data)
    assert all(0 <= span.start <= span.end <= len(data) for span in spans)
    assert redact.redact(data).secrets <= len(spans)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.dictionaries(st.text(), v), max_leaves=5
    )
)
def test_json_stays_json_with_the_same_keys(value: object) -> None:
    plain = {"password": value, "x": value, "secret": "s", TOKENS["jwt"][:3]: ["a", {"token": ["b", 'c"']}]}
    found = json.loads(redact.redact(json.dumps(plain).encode()).data)
    assert list(found) == list(plain)
    assert found["secret"] == "[redacted:secret]"


@given(st.data())
def test_a_secret_is_found_wherever_it_stands(data: st.DataObject) -> None:
    secret = data.draw(st.sampled_from([secret for secret in ALL if "\n" not in secret]))
    before, after = data.draw(st.text(max_size=30)), data.draw(st.text(max_size=30))
    body = json.dumps({"a": f"{before} {secret} {after}"}, ensure_ascii=data.draw(st.booleans()))
    found = redact.redact(body.encode())
    assert found.secrets
    assert secret.encode() not in found.data


def test_overlaps_and_rests_are_blanked_once() -> None:
    spans = [Span(2, 4, ""), Span(0, 3, "jwt"), Span(6, 7, ""), Span(5, 5, "x")]
    assert redact.blank(b"01234567", spans) == (b"[redacted:jwt]457", 1)


HOSTILE = {
    "runs": b"eyJ" * 330_000,
    "dots": b"eyJa." * 200_000,
    "backslashes": b"\\" * 1_000_000,
    "escapes": b"\\u0041" * 166_000,
    "names": b"token" * 200_000,
    "quotes": b'"token":"' + b'\\"' * 490_000,
    "lists": b'"token":[' + b'"a",' * 240_000,
    "depths": b"".join(b"\\" * n + b'"token' + b"\\" * n + b'":' + b"\\" * n + b'"' for n in range(570)),
    "authorities": b"://" * 330_000,
    "keys": b"-----BEGIN PRIVATE KEY-----" * 900,
    "schemes": b"bearer " * 140_000,
    "cookies": b"cookie: a=" * 100_000,
    "variables": b"KEY=" * 250_000,
    "ids": b"AKIA" * 250_000,
    "prefixes": b"sk-ant-AIza-ghp_" * 60_000,
    "prefixes that nothing follows": b"xoxb-glpat-npm_ " * 60_000,
    "numbers of a bot": b"0123456789:AAabcdefghijklmnopqrst " * 30_000,
    "first parts of tokens": (b"eyJ" + b"a" * 8000 + b" ") * 120,
    "parts of tokens": (b"eyJ" + b"a-" * 30) * 16_000,
    "pictures": b"aB1/" * 250_000,
    "elements": b"<token>" * 140_000,
    "values": b"token=a1b2" * 100_000,
    "options": b"--token " * 125_000,
    "members": b'"token", "value": ' * 55_000,
    "users": b" -u a:" * 160_000,
    "quotation marks": b"token='" * 140_000,
}


TOO_MUCH = ("variables", "elements", "quotation marks")


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_grows_with_the_length_and_no_faster(kind: str) -> None:
    """Quadratic would be minutes."""
    began = time.process_time()
    try:
        redact.redact(HOSTILE[kind])
    except TooMuch:
        assert kind in TOO_MUCH
    assert time.process_time() - began < 20


def test_a_usual_body_of_1_mb_takes_milliseconds() -> None:
    """About 20; the bound leaves room for a busy machine."""
    text = "def total(key, tokens):\n    return {'path': f'/v1/{key}', \"sum\": sum(tokens)}  # see README\n" * 40
    body = json.dumps({"messages": [{"role": "user", "content": text}] * 260}).encode()
    assert len(body) > 1_000_000
    took = []
    for _ in range(3):
        began = time.process_time()
        redact.redact(body)
        took.append(time.process_time() - began)
    assert min(took) < 0.5


_PIECES = ("0", "a1", "Zz9", "-", "_", "claude-opus-4-8", "0f" * 20)
_IN_RUNS = tuple(literal for rule in RULES for literal in rule.literals if re.fullmatch(r"[\w-]+", literal))


@given(
    st.sampled_from([*b' "=\n.~:$/+\\%[x0_']),
    st.lists(st.sampled_from([*_PIECES, *_IN_RUNS]), min_size=1, max_size=12).map("".join),
)
@example(ord('"'), "sk-ant-" + TAIL)
@example(ord("x"), "0" * 63 + "ccf_" + TAIL)
def test_what_is_remembered_of_a_run_is_what_is_found_in_its_place(before: int, run: str) -> None:
    view = bytes([before]) + run.encode() + b"."
    literal = by_form._literal() if before in by_form._GLUE else by_form._bordered()
    is_there = literal.search(view, 1, 1 + min(len(run), by_form._FAR)) is not None
    assert by_form._holds_literal(run.encode()[: by_form._FAR], before) == is_there
