"""What is asked of the API, and what becomes of its answers: each that is no good one is a sentence."""

import json
from typing import Any

import pytest

from ccflare_cli.console import Refused
from ccflare_cli.mcp.record import Record
from ccflare_core.errors import TokenUnavailable
from ccflare_core.http.messages import Request, Response

KEY = "ccf_" + "k" * 32
MADE = "`scripts/keys.py client add NAME --role viewer` makes one, which goes into ccflare_MCP_KEY"


class Proxy:
    """Answers all with one answer, and keeps what it was asked."""

    def __init__(self, status: int = 200, content: object = None, body: bytes = b"") -> None:
        self.asked: list[Request] = []
        self._response = Response(status, (), body or json.dumps(content).encode())

    async def send(self, request: Request) -> Response:
        self.asked.append(request)
        return self._response

    def record(self, key: str = KEY, place: str = "http://127.0.0.1:8080") -> Record:
        return Record(place, key, self.send)


def error(message: object) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "x", "message": message}}


async def test_a_question_goes_to_the_api_with_the_key_as_a_bearer_token() -> None:
    proxy = Proxy(content={"hits": []})

    assert await proxy.record().get("/search", text="a b&c") == {"hits": []}

    [request] = proxy.asked
    assert (request.method, request.url) == ("GET", "http://127.0.0.1:8080/ccflare/api/v1/search?text=a+b%26c")
    assert request.headers == (("Authorization", f"Bearer {KEY}"),)


async def test_half_a_character_in_a_question_is_asked_as_a_question_mark() -> None:
    proxy = Proxy(content={})

    await proxy.record().get("/search", text="a\ud800")

    assert proxy.asked[0].url.endswith("/search?text=a%3F")


async def test_without_a_key_none_is_shown() -> None:
    proxy = Proxy(content={})

    await proxy.record("").get("/accounts")

    assert proxy.asked[0].headers == ()


@pytest.mark.parametrize(
    ("status", "key", "told"),
    [
        (401, KEY, f"The proxy does not know the client key, or it is over: {MADE}."),
        (401, "", f"The proxy serves nobody without a client key: {MADE}."),
        (403, KEY, f"The client key may not see this, since it has no permission logs.view: {MADE}."),
        (403, "", f"Without a client key there are figures alone, and no conversations: {MADE}. From the first"),
    ],
)
async def test_who_may_not_ask_is_told_what_it_takes(status: int, key: str, told: str) -> None:
    with pytest.raises(Refused) as caught:
        await Proxy(status, error("No.")).record(key).get("/search", text="x")

    assert str(caught.value).startswith(told)
    assert KEY not in str(caught.value)


async def test_what_the_api_objects_to_is_said_in_its_words_on_one_line() -> None:
    with pytest.raises(Refused, match=r"^limit cannot be that\?it takes a number\.$"):
        await Proxy(400, error("limit cannot be that\nit takes a number.")).record().get("/search")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((200, b"<html>"), (502, b"Bad gateway"), (404, b"[]"), (500, b"{}"), (200, b"[" * 100_000)),
        (400, json.dumps(error(f"There is no key {KEY}.")).encode()),
    ],
)
async def test_an_answer_that_is_nothing_of_ours_is_a_sentence(status: int, body: bytes) -> None:
    with pytest.raises(Refused, match="is no proxy of this version"):
        await Proxy(status, body=body).record().get("/stats")


async def test_a_proxy_that_cannot_be_reached_is_a_sentence_that_says_how_it_starts() -> None:
    async def send(request: Request) -> Response:
        raise TokenUnavailable("127.0.0.1 cannot be reached (Connection refused); try again later")

    with pytest.raises(Refused) as caught:
        await Record("http://127.0.0.1:8080", KEY, send).get("/stats")

    why = "for 127.0.0.1 cannot be reached (Connection refused)"
    assert str(caught.value) == f"The proxy cannot be asked, {why}; `scripts/run` starts it where it does not run."


async def test_a_key_is_not_sent_to_another_machine_in_clear() -> None:
    proxy = Proxy()

    with pytest.raises(Refused, match="is not one that a key may be sent to"):
        await proxy.record(place="http://proxy.example:8080").get("/stats")

    assert proxy.asked == []
