"""A page's answer: now or later, and an error in its place whatever goes wrong."""

import json

import pytest

from ccflare_core.anthropic.answers import Answer, json_answer
from ccflare_core.clients.authentication import Identity
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.errors import NotFound, StoreError
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.visit import MOST_PARAMETERS, BadQuery, Visit
from exchange_kit import Bench
from guard_kit import an_admin, forget


def a_visit(query: str = "", body: bytes = b"") -> Visit:
    return Visit(Identity(None), "127.0.0.1", "/ccflare/test", query=query, body=body)


def raising(problem: Exception, *, later: bool) -> Page:
    def now(admin: Admin, visit: Visit) -> Answer:
        raise problem

    async def in_a_while(admin: Admin, visit: Visit) -> Answer:
        raise problem

    return Page("/ccflare/test", READ, None, in_a_while if later else now)


async def answered(page: Page, visit: Visit) -> Answer:
    server = PageServer(an_admin(Bench()), SecondFactor(lambda: 0.0, forget), None)
    answer = server.answer(page, visit)
    return answer if isinstance(answer, Answer) else await answer


def test_what_a_query_says_can_be_asked_of_every_database() -> None:
    """PostgreSQL takes no NUL, and what is recorded has it spelt out."""
    assert a_visit("model=a%00b&before=1-%00").parameters == [("model", "a\\0b"), ("before", "1-\\0")]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("problem", "status", "told"),
    [
        (NotFound("There is no such request."), 404, "There is no such request."),
        (BadQuery("since is no time."), 400, "since is no time."),
        (StoreError("The database is away."), 503, "The database is away."),
        (KeyError("secret"), 500, "This page failed inside; the proxy's log says more."),
    ],
)
async def test_a_failure_is_an_answer(later: bool, problem: Exception, status: int, told: str) -> None:
    answer = await answered(raising(problem, later=later), a_visit())
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (status, told)


async def test_a_page_answers_at_once_or_later() -> None:
    async def in_a_while(admin: Admin, visit: Visit) -> Answer:
        return json_answer(200, visit.asked("a"))

    later = Page("/ccflare/test", READ, None, in_a_while)
    now = Page("/ccflare/test", READ, None, lambda admin, visit: json_answer(200, visit.asked("a", "none")))
    assert [(await answered(page, a_visit("b=2&a=1"))).body for page in (now, later)] == [b'"1"', b'"1"']
    assert (await answered(now, a_visit())).body == b'"none"'


async def test_what_cannot_be_read_is_a_bad_query() -> None:
    page = Page("/ccflare/test", READ, None, lambda admin, visit: json_answer(200, visit.parameters))
    assert (await answered(page, a_visit("a=1&a=2&b="))).body == b'[["a", "1"], ["a", "2"], ["b", ""]]'
    assert (await answered(page, a_visit("a=1&" * (MOST_PARAMETERS + 1)))).status == 400


async def test_a_page_without_a_database_says_so() -> None:
    async def look(admin: Admin, visit: Visit) -> Answer:
        return json_answer(200, await admin.read(lambda store: store.accounts.all()))

    assert (await answered(Page("/ccflare/test", READ, None, look), a_visit())).status == 503


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a=1&" * (MOST_PARAMETERS + 1)])
def test_a_body_that_is_no_form_has_no_fields(body: bytes) -> None:
    assert a_visit(body=body).form == {}


def test_a_form_has_its_fields() -> None:
    assert a_visit(body=b"key=ccf_x&next=%2Fccflare%2F").form == {"key": "ccf_x", "next": "/ccflare/"}
