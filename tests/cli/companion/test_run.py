"""What `ccflare run` refuses before it starts anything, and what a client finds in its environment."""

import pytest

from ccflare_cli.companion.environment import Variables
from ccflare_cli.companion.run import _changed, main
from desk import Desk


@pytest.mark.parametrize(
    ("words", "environ", "complaint"),
    [
        ([], {}, "Say which client to start"),
        (["--"], {}, "Say which client to start"),
        (["no-such-client"], {}, "There is no program no-such-client."),
        (["web"], {"PATH": ""}, "`scripts/run web` starts the proxy"),
        ([*("--tag", "a=b") * 2, "true"], {}, "each name once"),
        ([*(word for name in "abcde" for word in ("--tag", f"{name}=b")), "true"], {}, "Give 4 tags at most"),
        (["true"], {"HTTPS_PROXY": "http://run-1:-@127.0.0.1:8080"}, "This shell is in run-1 already"),
    ],
)
def test_what_cannot_be_started_is_refused_at_once(words: list[str], environ: dict[str, str], complaint: str) -> None:
    desk = Desk(environ={"PATH": "/usr/bin:/bin", **environ})

    assert main(words, desk.console()) == 1
    assert complaint in desk.complained.replace("\n", " ")


@pytest.mark.parametrize("option", [("--tag", "A=b"), ("--budget", "0"), ("--budget", "-1"), ("--project", "")])
def test_an_option_that_means_nothing_is_misuse(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*option, "true"], Desk().console())
    assert ended.value.code == 2


def test_what_follows_the_client_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk(environ={"PATH": "/usr/bin:/bin"})

    assert main(["--project", "x", "no-such-client", "--budget", "none", "--", "--tag"], desk.console()) == 1
    assert "no-such-client" in desk.complained


def test_a_key_of_ours_is_in_the_proxys_address_alone() -> None:
    names = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
    before = dict.fromkeys(names, "ccf_EXAMPLE") | {"HTTP_PROXY": "x", "LANG": "C"}

    changed = _changed(before, Variables({"HTTPS_PROXY": "y", "ANTHROPIC_AUTH_TOKEN": "unused"}, ("HTTP_PROXY",)))

    assert changed == {"LANG": "C", "HTTPS_PROXY": "y", "ANTHROPIC_AUTH_TOKEN": "unused"}
    assert _changed({"ANTHROPIC_API_KEY": "sk-ant-api03-mine"}, Variables({}, ())) == {
        "ANTHROPIC_API_KEY": "sk-ant-api03-mine"
    }
