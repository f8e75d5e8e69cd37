"""`accounts.py`, called as its script calls it, on a real database."""

import io
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_cli.accounts.credentials import BadSecret, parse_api_key, parse_tokens
from ccflare_cli.accounts.main import main
from ccflare_cli.output import iso
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.exchange.records import AttentionNeeded
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from desk import Desk, Terminal
from history import NOON, History, at_local

DAY = 86_400.0
TOKENS = {"access_token": "sk-ant-oat01-A", "refresh_token": "sk-ant-ort01-R"}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "pool" / "ccflare.db"


def call(database: Path, *words: str, desk: Desk | None = None, stdin: str = "") -> tuple[int, Desk]:
    desk = desk or Desk(io.StringIO(stdin))
    return main(["--database", str(database), *words], desk.console()), desk


def stored(database: Path) -> list[Account]:
    store = Store.open(database, KeyFile(database.with_suffix(".key")))
    try:
        return store.accounts.all()
    finally:
        store.close()


class TestAdd:
    def test_an_api_key_from_stdin(self, database: Path) -> None:
        code, desk = call(database, "add", "key-1", "--api-key", "-", "--priority", "3", stdin="sk-ant-api03-K\n")

        (account,) = stored(database)
        assert (code, desk.said) == (0, "Added key-1 (API key).\n")
        assert (account.kind, account.api_key, account.priority) == (Kind.API_KEY, "sk-ant-api03-K", 3)
        assert account.created_at == NOON

    def test_tokens_from_stdin(self, database: Path) -> None:
        text = json.dumps({**TOKENS, "expires_at": (NOON + 7200) * 1000})

        code, desk = call(database, "add", "max-1", "--tokens", "-", stdin=text)

        (account,) = stored(database)
        assert (code, desk.said) == (0, "Added max-1 (OAuth, valid for 2 h).\n")
        assert (account.access_token, account.refresh_token) == ("sk-ant-oat01-A", "sk-ant-ort01-R")
        assert account.expires_at == NOON + 7200

    def test_a_setup_token_lasts_a_year(self, database: Path) -> None:
        code, desk = call(database, "add", "max-1", "--setup-token", "-", stdin="sk-ant-oat01-S\n")

        (account,) = stored(database)
        assert (code, desk.said) == (0, "Added max-1 (OAuth, valid for 365 days).\n")
        assert (account.access_token, account.refresh_token) == ("sk-ant-oat01-S", None)
        assert account.expires_at == account.login_expires_at == NOON + 365 * DAY
        assert account.login_at == NOON

    @pytest.mark.parametrize("secret", ["", "sk-ant-api03-K", "{}", "sk-ant-oat01-two words"])
    def test_what_is_no_setup_token_is_refused(self, database: Path, secret: str) -> None:
        code, desk = call(database, "add", "max-1", "--setup-token", "-", stdin=secret)

        assert (code, desk.complained.count("\n")) == (1, 1)
        assert not database.exists()

    def test_a_name_that_is_taken_is_told_before_the_secret_is_asked_for(self, database: Path) -> None:
        call(database, "add", "key-1", "--api-key", "-", stdin="sk-ant-api03-K")
        desk = Desk(Terminal(), typed="sk-ant-api03-L")

        code, _ = call(database, "add", "key-1", "--api-key", "-", desk=desk)

        assert (code, desk.prompts) == (1, [])
        assert desk.complained == "There is an account called key-1 already: choose another name.\n"

    @pytest.mark.parametrize(
        ("option", "secret"),
        [
            ("--api-key", "sk-ant-api03-"),
            ("--api-key", "sk-ant-api03"),
            ("--setup-token", "sk-ant-oat01-"),
            ("--tokens", '{"access_token": "sk-ant-oat01-"}'),
        ],
    )
    def test_the_beginning_of_a_secret_alone_is_none(self, database: Path, option: str, secret: str) -> None:
        code, desk = call(database, "add", "x", option, "-", stdin=secret)

        assert (code, desk.complained) == (1, "This is only the beginning of a secret: copy all of it.\n")
        assert not database.exists()

    def test_at_a_terminal_the_secret_is_typed_unseen(self, database: Path) -> None:
        desk = Desk(Terminal(), typed="sk-ant-api03-K")

        code, _ = call(database, "add", "key-1", "--api-key", "-", desk=desk)

        assert code == 0
        assert desk.prompts == ["API key of key-1: "]
        assert stored(database)[0].api_key == "sk-ant-api03-K"

    @pytest.mark.parametrize(
        "words",
        [
            ("add", "x", "--api-key", "sk-ant-SECRET"),
            ("add", "x", "--tokens=sk-ant-SECRET"),
            ("add", "x", "--setup-token", "sk-ant-SECRET"),
            ("login", "x", "sk-ant-SECRET"),
            ("add", "x", "--api-key", "-", "sk-ant-SECRET"),
            ("add", "x", "--api-key", "-", "--priority", "sk-ant-SECRET"),
        ],
    )
    def test_a_secret_in_the_arguments_is_refused_and_not_repeated(
        self, database: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            call(database, *words)

        printed = capsys.readouterr()
        assert stopped.value.code == 2
        assert "SECRET" not in printed.out + printed.err
        assert not database.exists()

    @pytest.mark.parametrize("secret", ["", "two words", "naïve", "sk-ant-oat01-A", "x" * 70_000])
    def test_what_is_no_key_is_refused_and_not_repeated(self, database: Path, secret: str) -> None:
        code, desk = call(database, "add", "key-1", "--api-key", "-", stdin=secret)

        assert code == 1
        assert desk.complained.count("\n") == 1
        assert not secret or secret not in desk.complained
        assert not database.exists()

    def test_a_file_that_is_no_text_is_refused(self, database: Path) -> None:
        desk = Desk(io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), "utf-8"))

        code, _ = call(database, "add", "key-1", "--api-key", "-", desk=desk)

        assert (code, desk.complained) == (1, "What came on stdin is not text; check which file it was.\n")

    @pytest.mark.parametrize(
        ("option", "text", "sentence"),
        [
            ("--api-key", "sk-ant-oat01-S", "give it with --setup-token"),
            ("--api-key", 'export CLAUDE_CODE_OAUTH_TOKEN="sk-ant-oat01-S"', "give it with --setup-token"),
            ("--api-key", "sk-ant-ort01-S", "as JSON with --tokens"),
            ("--api-key", "sk-ant-admin01-S", "an Admin API key"),
            ("--api-key", "sk-ant-sid01-S", "a session of the web page"),
            ("--api-key", "ccf_S", "a client key of this proxy"),
            ("--api-key", '{"access_token": "S"}', "JSON: give it with --tokens"),
            ("--setup-token", "sk-ant-api03-S", "give it with --api-key"),
            ("--setup-token", "sk-ant-ort01-S", "as JSON with --tokens"),
            ("--setup-token", '{"access_token": "S"}', "JSON: give it with --tokens"),
            ("--setup-token", "S", "no setup token"),
            ("--tokens", "sk-ant-api03-S", "give it with --api-key"),
            ("--tokens", "sk-ant-oat01-S", "give it with --setup-token"),
            ("--tokens", '{"access_token": "sk-ant-api03-S"}', "give it with --api-key"),
            ("--tokens", '{"access_token": "sk-ant-ort01-S"}', "swap them"),
            ("--tokens", '{"access_token": "x", "refresh_token": "sk-ant-oat01-S"}', "swap them"),
        ],
    )
    def test_another_kind_of_secret_is_told_its_option(
        self, database: Path, option: str, text: str, sentence: str
    ) -> None:
        code, desk = call(database, "add", "x", option, "-", stdin=text)

        assert (code, desk.complained.count("\n")) == (1, 1)
        assert sentence in desk.complained
        assert not database.exists()

    def test_what_a_secret_was_pasted_with_comes_off(self, database: Path) -> None:
        tokens = json.dumps({**TOKENS, "expires_in": 3600})
        pasted = {
            "--api-key": "\ufeffexport ANTHROPIC_API_KEY='sk-ant-api03-K'\r\n",
            "--setup-token": 'CLAUDE_CODE_OAUTH_TOKEN="sk-ant-oat01-S"',
            "--tokens": f"\ufeff'{tokens}'\r\n",
        }
        for option, text in pasted.items():
            assert call(database, "add", option.strip("-"), option, "-", stdin=text)[0] == 0

        key, setup, login = stored(database)
        assert key.api_key == "sk-ant-api03-K"
        assert setup.access_token == "sk-ant-oat01-S"
        assert (login.access_token, login.refresh_token) == (TOKENS["access_token"], TOKENS["refresh_token"])

    def test_tokens_that_cannot_be_renewed_are_told_so(self, database: Path) -> None:
        for name, option, text in (
            ("bare", "--tokens", '{"access_token": "sk-ant-oat01-B", "expires_in": 21600}'),
            ("endless", "--tokens", '{"access_token": "sk-ant-oat01-E"}'),
            ("whole", "--tokens", json.dumps({**TOKENS, "expires_in": 21600})),
            ("setup", "--setup-token", "sk-ant-oat01-S"),
        ):
            call(database, "add", name, option, "-", stdin=text, desk=(desk := Desk(io.StringIO(text))))
            when = {"bare": "in 6 h", "endless": "nobody knows when"}.get(name)
            told = f"{name}: it has an access token without a refresh token, which ends {when}: log in before that"
            assert desk.complained == (f"{told}.\n" if when else "")
            assert (told in call(database, "list")[1].said) is bool(when)

    @pytest.mark.parametrize("name", ["工作", "Mu\u0308ller"])
    def test_name_is_found_in_every_spelling(self, database: Path, name: str) -> None:
        assert call(database, "add", name, "--api-key", "-", stdin="sk-ant-api03-K")[0] == 0
        assert stored(database)[0].name == unicodedata.normalize("NFC", name)

        for spelling in ("NFC", "NFD"):
            assert call(database, "pause", unicodedata.normalize(spelling, name))[0] == 0
            assert call(database, "resume", unicodedata.normalize(spelling, name))[0] == 0
        assert call(database, "rename", name, "Mu\u0308ller 2")[0] == 0
        assert call(database, "remove", "M\u00fcller 2", "--yes")[0] == 0

    @pytest.mark.parametrize("name", ["", "a/b", " a", "x" * 101, "a\nb", "m\u0430x", "a\udcff"])
    def test_a_bad_name_is_refused(self, database: Path, name: str) -> None:
        code, desk = call(database, "add", name, "--api-key", "-", stdin="sk-ant-api03-K")

        assert code == 1
        assert desk.complained.startswith("A name has")

    def test_a_name_that_is_a_secret_is_not_kept(self, database: Path) -> None:
        code, desk = call(database, "add", f"sk-ant-api03-{'Ab1' * 12}", "--api-key", "-", stdin="sk-ant-api03-K")

        assert code == 1
        assert "has the form of a key or token" in desk.complained
        assert "sk-ant" not in desk.complained

    def test_a_taken_name_is_refused(self, database: Path) -> None:
        call(database, "add", "key-1", "--api-key", "-", stdin="sk-ant-api03-K")

        code, desk = call(database, "add", "key-1", "--api-key", "-", stdin="sk-ant-api03-L")

        assert code == 1
        assert "key-1" in desk.complained
        assert len(stored(database)) == 1

    def test_a_key_that_opens_nothing_must_not_seal(self, database: Path) -> None:
        call(database, "add", "key-1", "--api-key", "-", stdin="sk-ant-api03-K")
        desk = Desk(io.StringIO("sk-ant-api03-L"), environ={"ccflare_ENCRYPTION_KEY": "00" * 32})

        code, _ = call(database, "add", "key-2", "--api-key", "-", desk=desk)

        assert code == 1
        assert [account.name for account in stored(database)] == ["key-1"]

    def test_the_proxys_variable_names_the_database(self, database: Path) -> None:
        desk = Desk(io.StringIO("sk-ant-api03-K"), environ={"ccflare_DB_PATH": str(database)})

        assert main(["add", "key-1", "--api-key", "-"], desk.console()) == 0
        assert database.exists()


class TestTokens:
    def test_claude_codes_own_file(self) -> None:
        text = json.dumps({"claudeAiOauth": {"accessToken": "a", "refreshToken": "r", "expiresAt": 1785518400000}})

        assert parse_tokens(text, NOON) == ("a", "r", 1785518400.0)

    @pytest.mark.parametrize(
        ("expiry", "seconds"),
        [
            ({"expires_at": 1785518400000}, 1785518400.0),
            ({"expires_at": 1785518400}, 1785518400.0),
            ({"expires_at": "2026-07-31T17:20:00Z"}, 1785518400.0),
            ({"expires_at": "2026-07-31T19:20:00+02:00"}, 1785518400.0),
            ({"expires_in": 3600}, NOON + 3600),
            ({}, None),
        ],
    )
    def test_the_expiry_in_every_form(self, expiry: dict[str, object], seconds: float | None) -> None:
        assert parse_tokens(json.dumps({**TOKENS, **expiry}), NOON).expires_at == seconds

    @pytest.mark.parametrize(
        "data",
        [
            "not json",
            "[" * 60_000,
            "[]",
            "{}",
            '{"access_token": 7}',
            '{"access_token": "two words"}',
            '{"access_token": "a", "refresh_token": "two words"}',
            '{"access_token": "sk-ant-api03-K"}',
            '{"access_token": "a", "expires_at": "tomorrow"}',
            '{"access_token": "a", "expires_at": "2026-07-31T17:20:00"}',
            '{"access_token": "a", "expires_at": NaN}',
            '{"access_token": "a", "expires_at": true}',
            '{"access_token": "a", "expires_in": 1e300}',
            '{"access_token": "a", "expires_at": -5}',
        ],
    )
    def test_what_cannot_be_used_is_refused(self, data: str) -> None:
        with pytest.raises(BadSecret):
            parse_tokens(data, NOON)

    @given(st.text() | st.dictionaries(st.sampled_from([*TOKENS, "expires_at", "expires_in"]), st.text()))
    def test_whatever_comes_is_parsed_or_refused(self, data: object) -> None:
        for parse in (lambda text: parse_tokens(text, NOON), parse_api_key):
            try:
                parse(data if isinstance(data, str) else json.dumps(data))
            except BadSecret:
                continue

    def test_tokens_do_not_show_in_a_repr(self) -> None:
        assert "sk-ant" not in repr(parse_tokens(json.dumps(TOKENS), NOON))


class TestChange:
    @pytest.fixture(autouse=True)
    def _two_accounts(self, database: Path) -> None:
        with History(database, KeyFile(database.with_suffix(".key"))) as past:
            past.account("max-1")
            past.account("max-2")

    def accounts(self, database: Path) -> dict[str, Account]:
        store = Store.open(database, None, read_only=True)
        try:
            return {account.name: account for account in store.accounts.all()}
        finally:
            store.close()

    def test_resume_ends_that_an_account_needs_attention(self, database: Path) -> None:
        with History(database, KeyFile(database.with_suffix(".key"))) as past:
            past.store.write([AttentionNeeded("MAX-1", "on hold")])
        assert self.accounts(database)["max-1"].attention == "on hold"

        assert call(database, "resume", "max-1")[1].said == "Resumed max-1.\n"

        assert self.accounts(database)["max-1"].attention is None
        assert call(database, "resume", "max-1")[1].said == "max-1 is not paused.\n"

    def test_pause_and_resume(self, database: Path) -> None:
        assert call(database, "pause", "max-1")[1].said == "Paused max-1.\n"
        assert self.accounts(database)["max-1"].paused
        assert call(database, "pause", "max-1")[1].said == "max-1 is already paused.\n"
        assert call(database, "resume", "max-1")[1].said == "Resumed max-1.\n"
        assert not self.accounts(database)["max-1"].paused

    def test_name_that_is_no_text_is_nobodys(self, database: Path) -> None:
        code, desk = call(database, "pause", "a\udcff")

        assert (code, desk.complained.count("\n")) == (1, 1)
        assert "There is no account called" in desk.complained

    def test_rename(self, database: Path) -> None:
        code, desk = call(database, "rename", "max-1", "work laptop")

        assert (code, desk.said) == (0, "max-1 is now called work laptop.\n")
        assert self.accounts(database).keys() == {"work laptop", "max-2"}

    def test_rename_to_a_taken_name(self, database: Path) -> None:
        code, desk = call(database, "rename", "max-1", "max-2")

        assert code == 1
        assert "max-2" in desk.complained

    def test_priority_of_a_new_account_is_in_the_middle(self, database: Path) -> None:
        call(database, "add", "key-1", "--api-key", "-", stdin="sk-ant-api03-K")
        assert self.accounts(database)["key-1"].priority == 50

    @pytest.mark.parametrize("number", ["0", "100", "-5", "first"])
    def test_priority_goes_from_1_to_99(self, database: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            call(database, "priority", "max-2", number)

        assert "give a whole number from 1 to 99" in capsys.readouterr().err

    def test_priority(self, database: Path) -> None:
        assert call(database, "priority", "max-2", "1")[0] == 0
        assert self.accounts(database)["max-2"].priority == 1

    def test_remove_wants_the_name_typed(self, database: Path) -> None:
        code, desk = call(database, "remove", "max-1", stdin="yes\n")

        assert code == 1
        assert "nothing was removed" in desk.complained
        assert "max-1" in self.accounts(database)
        assert call(database, "remove", "max-1", stdin="max-1\n")[0] == 0
        assert self.accounts(database).keys() == {"max-2"}

    def test_remove_without_asking(self, database: Path) -> None:
        code, desk = call(database, "remove", "max-1", "--yes")

        assert (code, desk.said, desk.complained) == (0, "Removed max-1.\n", "")

    @pytest.mark.parametrize("words", [("pause", "x"), ("resume", "x"), ("rename", "x", "y"), ("remove", "x", "--yes")])
    def test_an_unknown_name_is_an_error(self, database: Path, words: tuple[str, ...]) -> None:
        code, desk = call(database, *words)

        assert code == 1
        assert "no account called x" in desk.complained

    def test_a_change_makes_no_database(self, tmp_path: Path) -> None:
        code, desk = call(tmp_path / "none.db", "pause", "x")

        assert code == 1
        assert "does not exist" in desk.complained
        assert not (tmp_path / "none.db").exists()


class TestList:
    def test_without_a_database_says_what_to_do(self, database: Path) -> None:
        code, desk = call(database, "list")

        assert code == 0
        assert "accounts.py add" in desk.said
        assert not database.exists()

    def test_shows_how_each_account_stands(self, database: Path) -> None:
        with History(database) as past:
            past.account("max-1")
            past.account("max-2", expires_at=NOON - 1, refresh_token=None, priority=60)
            past.cooldown("max-1", at_local(24, 14, 20), "5h window spent")
            past.window("max-1", "5h", 1.01, at_local(24, 14, 20))
            past.exchange(NOON - 3600, "max-1")

        _, desk = call(database, "list")

        head, _, first, second, _, note = desk.said.splitlines()
        assert head.split() == [
            *("Name", "Kind", "Priority", "Token", "Login", "Ends"),
            *("Last", "used", "Last", "24", "h", "5h", "7d", "State"),
        ]
        assert first.split("  ")[0] == "max-1"
        assert "valid for 6 h" in first
        assert first.endswith("11:00              1  101 %   –  cooling until 14:20: 5h window spent")
        assert "expired" in second
        assert second.endswith("needs login: token expired")
        assert note == "Priority 1 is used first, 99 last."

    def test_shows_what_needs_attention(self, database: Path) -> None:
        with History(database) as past:
            past.account("max-1")
            past.store.write([AttentionNeeded("MAX-1", "This organization has been disabled. (https://x.example)")])

        shown = call(database, "list", "--format", "json")[1].said
        assert json.loads(shown)[0]["state"] == "needs attention"
        assert "needs attention: This organization has" in call(database, "list")[1].said

    def test_gives_programs_whole_values(self, database: Path) -> None:
        with History(database) as past:
            past.account("max-1", paused=True)

        _, desk = call(database, "list", "--format", "json")

        (account,) = json.loads(desk.said)
        assert (account["name"], account["kind"], account["state"]) == ("max-1", "oauth", "paused")
        assert account["requests_24h"] == 0
        assert "token-of-max-1" not in desk.said

    def test_tells_of_logins_and_warns_before_they_end(self, database: Path) -> None:
        with History(database) as past:
            past.account("max-1", login_at=NOON - 3 * DAY)
            past.account("max-2", login_at=NOON - 25 * DAY)
            past.account("max-3", needs_login=True)

        _, desk = call(database, "list")

        _, _, first, second, third, _, _, *warnings = desk.said.splitlines()
        assert "valid for 6 h  3 days ago   in 25 days  " in first
        assert "valid for 6 h  25 days ago  in 3 days   " in second
        assert "needs login    unknown      unknown     " in third
        assert warnings == [
            "max-2: the login is expected to end in 3 days: log in again before that.",
            "max-3: the provider has ended this login: log in again.",
            "`scripts/accounts.py login NAME` does it.",
        ]

    def test_tells_programs_of_logins(self, database: Path) -> None:
        with History(database) as past:
            past.account("max-1", login_at=NOON - 25 * DAY)

        (account,) = json.loads(call(database, "list", "--format", "json")[1].said)

        assert account["token"] == "valid for 6 h"
        assert account["login_expires_at"] == iso(NOON + 3 * DAY)
        assert account["warning"].startswith("the login is expected to end in 3 days")

    def test_tells_what_a_running_proxy_does_about_a_token(self, database: Path) -> None:
        with History(database) as past:
            past.account("max-1", refresh_token="r-1", expires_at=NOON - 1)
            past.account("max-2", refresh_token="r-2")
            past.store.runs.start("run-1", "host", 1)
            past.store.logins.note_failure(past.store.accounts.by_name("max-1"), at_local(24, 12, 20), "busy")
            past.store.logins.take_lease("MAX-2", "run-1")

        _, desk = call(database, "list")

        _, _, first, second, *_ = desk.said.splitlines()
        assert "token expired, back-off until 12:20" in first
        assert "refreshing" in second


def test_another_programs_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("not a database " * 100)

    code, desk = call(tmp_path / "other.db", "list")

    assert code == 1
    assert desk.complained.count("\n") == 1


def test_a_home_that_does_not_exist_is_one_sentence() -> None:
    desk = Desk()

    assert main(["--database", "~nobody-of-that-name/x.db", "list"], desk.console()) == 1
    assert desk.complained.startswith("ccflare_database:")


def test_a_wrong_variable_is_one_sentence(database: Path) -> None:
    code, desk = call(database, "list", desk=Desk(environ={"ccflare_DB_PAHT": "x"}))

    assert code == 1
    assert "ccflare_DB_PATH" in desk.complained
