"""The owner's rules in a running proxy: which account, model and effort a request gets, and a file that changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import FakeUpstream, overloaded
from harness import Proxy, Reply, claude_request, eventually
from rig import Rig

RULES = """\
spare: {when: {tag: kind=spare}, accounts: b-*}
nowhere: {when: {tag: kind=nowhere}, not_accounts: '*'}
cheap: {when: {tag: kind=cheap}, models: claude-haiku-*}
low: {when: {tag: kind=low}, effort: medium}
swap: {when: {tag: kind=swap}, models: claude-haiku-*, replace: claude-haiku-4-5}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture(scope="module")
def bench(file: Path) -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_rules=file) as rig:
        yield rig


def ask(rig: Rig, kind: str, **options: Any) -> Reply:
    return rig.ask(extra=((b"x-ccflare-tag", f"kind={kind}".encode()),), **options)


def refused(reply: Reply) -> tuple[int, str, str]:
    """The status, the type and the message; a client that takes it by its word does not ask again."""
    assert reply.head.header("x-should-retry") == "false"
    assert reply.head.header("anthropic-ratelimit-unified-status") is None
    error = json.loads(reply.body)["error"]
    return reply.status, error["type"], error["message"]


def test_an_account_that_is_allowed_serves_and_no_other_one_takes_over(rig: Rig) -> None:
    assert ask(rig, "spare").status == 200
    rig.script("b", always=overloaded())
    assert ask(rig, "spare").status in (503, 529)

    assert set(rig.asked) == {"b"}
    assert rig.rows(2)[0]["choice_reason"].endswith(", by the rule spare")


def test_where_no_account_is_allowed_nothing_goes_upstream(rig: Rig) -> None:
    told = "No account may serve this request: the rule nowhere allows all but *."

    assert refused(ask(rig, "nowhere")) == (403, "permission_error", told)
    assert rig.requests == []
    assert (rig.rows()[0]["outcome"], rig.rows()[0]["error_message"]) == ("refused", told)


def test_a_model_and_an_effort_that_are_not_allowed_are_refused(rig: Rig) -> None:
    status, kind, message = refused(ask(rig, "cheap"))
    assert (status, kind) == (403, "permission_error")
    assert message == "The rule cheap allows claude-haiku-* only, and this request asks for claude-opus-4-8."
    assert refused(ask(rig, "low"))[2].startswith("The rule low allows the efforts low and medium only, and this ")
    assert rig.requests == []

    assert ask(rig, "cheap", model="claude-haiku-4-5").status == 200


def test_a_model_is_replaced_and_the_rest_goes_out_as_it_came(rig: Rig) -> None:
    request = claude_request(3000, session=rig.session, extra=((b"x-ccflare-tag", b"kind=swap"),))
    with rig.client() as client:
        assert client.request(*request).status == 200

    (sent,) = rig.requests
    assert sent.body == request.body.replace(b"claude-opus-4-8", b"claude-haiku-4-5", 1)
    row = rig.row()
    assert (row["model"], row["original_model"]) == ("claude-haiku-4-5", "claude-opus-4-8")


def test_what_no_rule_is_about_goes_as_ever(rig: Rig) -> None:
    assert ask(rig, "other").status == 200
    assert (rig.asked, "rule" in rig.row()["choice_reason"]) == (["a"], False)


def test_a_changed_file_is_taken_up_and_one_with_a_mistake_changes_nothing(rig: Rig, file: Path) -> None:
    def told() -> tuple[int, str | None]:
        with rig.client() as client:
            health = client.request("GET", "/ccflare/health").json()
        return health["rules"], health["rules_problem"]

    try:
        assert told() == (5, None)
        file.write_text(f"{RULES}more: {{when: {{tag: kind=more}}, accounts: b-*}}\n")
        assert eventually(told, lambda found: found[0] == 6) == (6, None)
        assert ask(rig, "more").status == 200
        assert rig.asked == ["b"]

        file.write_text("more: {effort: max}\n")
        count, problem = eventually(told, lambda found: found[1] is not None)
        assert count == 6
        assert (
            problem
            == f"the rules stay as they were: {file} line 1: effort of rule more must be low, medium, high or xhigh."
        )
        assert rig.proxy.log().count("the rules stay as they were") == 1
        assert refused(ask(rig, "nowhere"))[0] == 403
    finally:
        file.write_text(RULES)
        assert eventually(told, lambda found: found == (5, None))


def test_rules_with_mistakes_are_all_told_at_the_start_which_fails(tmp_path: Path, upstream: FakeUpstream) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("a: {effort: max}\nb: {}\n")
    proxy = Proxy(upstream, folder=tmp_path, ccflare_rules=path)
    with pytest.raises(RuntimeError, match="ended with 1"):
        proxy.start()
    assert "line 1: effort of rule a must be low, medium, high or xhigh." in proxy.log()
    assert "line 2: rule b does nothing" in proxy.log()
    proxy.close()
