"""`accounts.py login` against the fake provider: a person, a browser, and everything that can go wrong."""

import contextlib
import io
import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_cli.accounts.login import log_in
from ccflare_cli.accounts.main import _parser, main
from ccflare_cli.console import Refused
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.exchange.records import IdMade
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from desk import Desk
from fake_upstream import TOKEN, FakeUpstream, bad_request, failure, huge, json_answer, unauthorized
from history import NOON
from login_kit import CREATE_KEY, Person, configured

DAY = 86_400.0


class Office:
    """A folder with a database, a provider, and what the commands said."""

    def __init__(self, folder: Path, upstream: FakeUpstream) -> None:
        self.database = folder / "pool" / "ccflare.db"
        self.environ = configured(folder, upstream)
        self.upstream = upstream

    def call(self, *words: str, person: Person | None = None, now: float = NOON) -> tuple[int, Desk]:
        person = person or Person()
        desk = Desk(person, now=now, environ=self.environ, browse=person.browse)
        return main(["--database", str(self.database), *words], desk.console()), desk

    def add_key(self, name: str) -> None:
        desk = Desk(io.StringIO("sk-ant-api03-OLD"))
        assert main(["--database", str(self.database), "add", name, "--api-key", "-"], desk.console()) == 0

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        store = Store.open(self.database, KeyFile(self.database.with_suffix(".key")), wall=lambda: NOON)
        try:
            yield store
        finally:
            store.close()

    def accounts(self) -> list[Account]:
        with self.store() as store:
            return store.accounts.all()

    def sessions(self) -> int:
        with self.store() as store:
            return len(store.query("SELECT id FROM oauth_sessions"))

    def use_the_login(self) -> None:
        """As another process would that got hold of the code."""
        with self.store() as store:
            ((session,),) = store.query("SELECT id FROM oauth_sessions")
            store.sessions.take(str(session), "max-1")

    def created_keys(self) -> int:
        return sum(request.path == CREATE_KEY for request in self.upstream.requests)


@pytest.fixture
def office(tmp_path: Path, upstream: FakeUpstream) -> Office:
    return Office(tmp_path, upstream)


def failed(office: Office, code: int, desk: Desk, sentence: str) -> None:
    """One sentence, and nothing left behind."""
    assert code == 1
    said = desk.complained.removeprefix("Paste the code: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert office.accounts() == []
    assert office.sessions() == 0


def interrupt() -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


class TestMax:
    def test_a_new_account(self, office: Office) -> None:
        person = Person()

        code, desk = office.call("login", "max-1", "--priority", "3", person=person)

        (account,) = office.accounts()
        assert code == 0
        assert person.opened[0] in desk.said
        assert desk.said.endswith("Added max-1 (OAuth, valid for 8 h).\n")
        assert (account.name, account.kind, account.priority) == ("max-1", Kind.OAUTH, 3)
        assert office.upstream.logins.is_live(account.refresh_token or "")
        assert (account.login_at, account.login_expires_at) == (NOON, NOON + 28 * DAY)
        assert office.sessions() == 0

    def test_add_without_a_secret_is_a_login(self, office: Office) -> None:
        code, desk = office.call("add", "max-1")

        assert (code, [account.name for account in office.accounts()]) == (0, ["max-1"])
        assert "owner@example.com" in desk.said

    def test_without_a_browser_the_address_is_only_printed(self, office: Office) -> None:
        person = Person()

        code, desk = office.call("login", "max-1", "--no-browser", person=person)

        assert code == 1
        assert "/oauth/authorize?code=true&client_id=" in desk.said
        assert person.opened == []
        assert "Nothing was pasted" in desk.complained

    def test_the_page_does_not_learn_the_verifier(self, office: Office) -> None:
        person = Person()
        office.call("login", "max-1", person=person)

        sent = next(request.json() for request in office.upstream.requests if request.path == TOKEN)
        assert sent["code_verifier"] not in person.opened[0]
        assert sent["state"] in person.opened[0]
        assert sent["state"] != sent["code_verifier"]

    def test_without_a_refresh_token_the_end_is_foretold(self, office: Office) -> None:
        office.upstream.logins.gives_refresh_token = False

        code, desk = office.call("login", "max-1")

        assert code == 0
        assert "without a refresh token, which ends in 8 h" in desk.complained
        assert office.accounts()[0].refresh_token is None


class TestAgain:
    def test_a_login_again_keeps_all_but_the_login(self, office: Office) -> None:
        office.call("login", "max-1", "--priority", "3")
        (before,) = office.accounts()
        with office.store() as store:
            store.accounts.update(before.id, needs_login=True, paused=True)

        code, desk = office.call("login", "max-1", now=NOON + 20 * DAY)

        (after,) = office.accounts()
        assert (code, desk.said.splitlines()[-1]) == (0, "Renewed the login of max-1 (OAuth, valid for 8 h).")
        assert (after.id, after.priority, after.created_at, after.paused) == (before.id, 3, NOON, True)
        assert not after.needs_login
        assert after.refresh_token != before.refresh_token
        assert (after.login_at, after.login_expires_at) == (NOON + 20 * DAY, NOON + 48 * DAY)

    def test_a_failed_login_leaves_the_old_one_alone(self, office: Office) -> None:
        office.call("login", "max-1")
        before = office.accounts()

        code, _ = office.call("login", "max-1", person=Person(lambda code: "x" + code))

        assert code == 1
        assert office.accounts() == before

    def test_add_does_not_touch_an_account_that_is_there(self, office: Office) -> None:
        office.call("login", "max-1")
        person = Person()

        code, desk = office.call("add", "max-1", person=person)

        assert (code, person.opened) == (1, [])
        assert "`login` renews its login" in desk.complained

    @pytest.mark.parametrize(
        ("name", "mode", "sentence"),
        [("key-1", "max", "has an API key"), ("max-1", "console", "is a subscription's")],
    )
    def test_an_account_keeps_its_kind(self, office: Office, name: str, mode: str, sentence: str) -> None:
        office.add_key("key-1")
        office.call("login", "max-1")
        person = Person()

        code, desk = office.call("login", name, "--mode", mode, person=person)

        assert (code, person.opened) == (1, [])
        assert sentence in desk.complained


class TestOthers:
    """Logins of somebody else, and of one person twice."""

    def test_login_of_another_person_is_refused(self, office: Office) -> None:
        office.call("login", "max-1")
        before = office.accounts()
        office.upstream.logins.person = "somebody-else"

        code, desk = office.call("login", "max-1")

        assert (code, office.accounts()) == (1, before)
        assert "This is another login than that of max-1" in desk.complained

    def test_another_persons_login_takes_the_place_if_asked_to(self, office: Office) -> None:
        office.call("login", "max-1", "--priority", "3")
        (before,) = office.accounts()
        with office.store() as store:
            store.accounts.update(before.id, paused=True)
            store.write([IdMade("file", "file_1", before.id, "", 1)])
        office.upstream.logins.person = "somebody-else"

        code, desk = office.call("login", "max-1", "--replace")

        (after,) = office.accounts()
        assert "Put another login in the place of that of max-1 (OAuth, valid for 8 h).\n" in desk.said
        assert (code, after.name, after.priority, after.paused) == (0, "max-1", 3, True)
        assert (after.person_id, after.id != before.id) == ("somebody-else", True)
        with office.store() as store:
            assert store.query("SELECT COUNT(*) FROM owners")[0][0] == 0, "the other person's files are out of reach"
            actions = [row[0] for row in store.query("SELECT action FROM audit_log ORDER BY id")]
        assert actions[-4:] == ["account.remove", "account.add", "login.done", "login.replaced"]

    def test_login_of_another_organization_is_refused(self, office: Office) -> None:
        office.call("login", "max-1")
        office.upstream.logins.organization = "another-one"

        code, desk = office.call("login", "max-1")

        assert code == 1
        assert "the same person and organization" in desk.complained
        assert office.call("login", "max-2")[0] == 0, "which has limits of its own"

    def test_one_login_is_one_account(self, office: Office) -> None:
        office.call("login", "max-1", "--priority", "3")
        before = office.accounts()

        code, desk = office.call("login", "max-2")

        assert (code, office.accounts()) == (1, before)
        assert (
            "This is the login of max-1 already: `login max-1` renews it, and --replace renames it" in desk.complained
        )

        code, desk = office.call("login", "max-2", "--replace")

        (after,) = office.accounts()
        assert (code, after.id, after.name, after.priority) == (0, before[0].id, "max-2", 3)
        assert "Renamed max-1 to max-2, with its login renewed (OAuth, valid for 8 h).\n" in desk.said
        assert after.refresh_token != before[0].refresh_token

    def test_login_of_one_account_is_not_put_into_another(self, office: Office) -> None:
        office.call("login", "max-1")
        office.upstream.logins.person = "somebody-else"
        office.call("login", "max-2")
        before = office.accounts()

        code, desk = office.call("login", "max-1", "--replace")

        assert (code, office.accounts()) == (1, before)
        assert desk.complained.endswith("This is the login of max-2 already: `login max-2` renews it.\n")

    def test_key_of_another_organization_is_not_made(self, office: Office) -> None:
        office.call("login", "work", "--mode", "console")
        office.upstream.logins.person = "a-colleague"
        assert office.call("login", "work", "--mode", "console")[0] == 0
        office.upstream.logins.organization = "another-one"

        code, desk = office.call("login", "work", "--mode", "console")

        assert (code, office.created_keys()) == (1, 2)
        assert "This is another login than that of work" in desk.complained

    def test_keys_of_one_organization_are_listed_as_such(self, office: Office) -> None:
        for name in ("work-1", "work-2"):
            assert office.call("login", name, "--mode", "console")[0] == 0

        shown = office.call("list")[1].said
        assert "work-1 and work-2 are API keys of one organization, and share its limits." in shown
        listed = json.loads(office.call("list", "--format", "json")[1].said)
        assert [each["shares_limits_with"] for each in listed] == [["work-2"], ["work-1"]]


class TestRefusals:
    def test_a_wrong_state(self, office: Office) -> None:
        code, desk = office.call("login", "max-1", person=Person(lambda code: f"{code.partition('#')[0]}#another"))

        failed(office, code, desk, "The code belongs to another login")
        assert TOKEN not in {request.path for request in office.upstream.requests}

    @pytest.mark.parametrize("pasted", ["", "abc", "abc#", "two words#x", "https://claude.ai/?error=access_denied"])
    def test_no_code(self, office: Office, pasted: str) -> None:
        code, desk = office.call("login", "max-1", person=Person(lambda code: pasted))

        failed(office, code, desk, "")
        assert not pasted or pasted not in desk.complained

    def test_a_code_that_the_provider_does_not_take(self, office: Office) -> None:
        code, desk = office.call("login", "max-1", person=Person(lambda code: "x" + code))

        failed(office, code, desk, "The provider did not take the code")

    def test_a_login_that_was_used_meanwhile(self, office: Office) -> None:
        person = Person()
        person.meanwhile = office.use_the_login

        code, desk = office.call("login", "max-1", person=person)

        failed(office, code, desk, "This login was used before")

    def test_a_login_that_took_too_long(self, office: Office) -> None:
        person = Person()
        desk = Desk(person, environ=office.environ, browse=person.browse)
        person.meanwhile = lambda: setattr(desk, "now", NOON + 601)

        code = main(["--database", str(office.database), "login", "max-1"], desk.console())

        failed(office, code, desk, "not finished within 10 minutes")

    @pytest.mark.parametrize(
        "answer", [failure(503), failure(500, html=True), huge(2 << 20), json_answer({"x": 1}), bad_request()]
    )
    def test_a_provider_in_trouble(self, office: Office, answer: object) -> None:
        office.upstream.always(answer, path=TOKEN)  # type: ignore[arg-type]

        code, desk = office.call("login", "max-1")

        failed(office, code, desk, "try again later")

    def test_a_name_that_was_taken_meanwhile(self, office: Office) -> None:
        person = Person()
        person.meanwhile = lambda: office.add_key("max-1")

        code, desk = office.call("login", "max-1", person=person)

        assert code == 1
        assert "max-1 was added, removed or renamed meanwhile: begin again" in desk.complained
        assert [account.api_key for account in office.accounts()] == ["sk-ant-api03-OLD"]

    def test_a_login_that_is_given_up_leaves_nothing(self, office: Office) -> None:
        person = Person()
        person.meanwhile = interrupt

        with pytest.raises(KeyboardInterrupt):
            office.call("login", "max-1", person=person)

        assert (office.accounts(), office.sessions()) == ([], 0)

    def test_what_is_about_the_browser_does_not_go_with_a_secret(self, office: Office) -> None:
        code, desk = office.call("add", "key-1", "--api-key", "-", "--mode", "console")

        assert code == 1
        assert "--mode" in desk.complained


class TestConsole:
    def test_an_api_key_is_made_and_stored(self, office: Office) -> None:
        code, desk = office.call("login", "work", "--mode", "console")

        (account,) = office.accounts()
        assert (code, desk.said.splitlines()[-1]) == (0, "Added work (API key).")
        assert (account.kind, (account.api_key or "")[:13]) == (Kind.API_KEY, "sk-ant-api03-")
        assert (account.access_token, account.refresh_token) == (None, None)

    def test_nothing_is_made_for_a_name_that_is_taken(self, office: Office) -> None:
        person = Person()
        person.meanwhile = lambda: office.add_key("work")

        code, desk = office.call("login", "work", "--mode", "console", person=person)

        assert (code, office.created_keys()) == (1, 0)
        assert "meanwhile" in desk.complained

    def test_a_key_that_cannot_be_stored_is_told_of_without_the_key(self, office: Office) -> None:
        made = json_answer({"raw_key": f"sk-ant-api03-{'x' * 40}SECRET{'y' * 40}WXYZ"})

        def make(request: object) -> object:
            office.add_key("work")  # at the last moment
            return made

        office.upstream.always(make, path=CREATE_KEY)  # type: ignore[arg-type]

        code, desk = office.call("login", "work", "--mode", "console")

        assert code == 1
        assert "sk-ant-api03-xxx...WXYZ" in desk.complained
        assert "SECRET" not in desk.complained + desk.said
        assert "https://platform.claude.com/settings/keys" in desk.complained

    @pytest.mark.parametrize("answer", [unauthorized(), failure(500), json_answer({}), huge(2 << 20)])
    def test_a_key_that_may_have_been_made_is_told_of(self, office: Office, answer: object) -> None:
        office.upstream.always(answer, path=CREATE_KEY)  # type: ignore[arg-type]

        code, desk = office.call("login", "work", "--mode", "console")

        assert (code, office.accounts()) == (1, [])
        assert "shows a key made at 12:00, delete it there" in desk.complained

    def test_a_login_again_gives_the_account_a_new_key(self, office: Office) -> None:
        office.add_key("work")
        (before,) = office.accounts()

        code, desk = office.call("login", "work", "--mode", "console")

        (after,) = office.accounts()
        assert (code, after.id) == (0, before.id)
        assert after.api_key != before.api_key
        assert "old key still works" in desk.complained


class TestTrust:
    """Certificates are verified, with the authorities that the proxy's configuration names."""

    def test_an_authority_of_the_configuration(self, tmp_path: Path, tls_upstream: FakeUpstream) -> None:
        office = Office(tmp_path, tls_upstream)
        office.environ = configured(tmp_path, tls_upstream, ssl_verify_upstream_trusted_ca=str(tls_upstream.ca_file))

        code, _ = office.call("login", "max-1", person=Person(trusted=tls_upstream.ca_file))

        assert code == 0

    def test_no_other_one(self, tmp_path: Path, tls_upstream: FakeUpstream) -> None:
        office = Office(tmp_path, tls_upstream)

        code, desk = office.call("login", "max-1", person=Person(trusted=tls_upstream.ca_file))

        failed(office, code, desk, "has a certificate that is not trusted")


def test_no_secret_is_said_logged_or_shown(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    said = []
    for person in (Person(), Person(lambda code: "x" + code)):
        _, desk = office.call("login", "max-1", person=person)
        said.append(desk.said + desk.complained)
    sent = [request.json() for request in office.upstream.requests if request.path == TOKEN]
    (account,) = office.accounts()

    shown = "".join([*said, caplog.text, repr(account)])
    secrets = [account.access_token, account.refresh_token, *(each["code_verifier"] for each in sent)]
    assert [secret for secret in secrets if secret is None or secret in shown] == []


def test_a_traceback_of_a_failed_login_holds_no_secret(office: Office) -> None:
    """Even if someone lets the error through with its whole history."""
    person = Person(lambda code: "x" + code)
    arguments = _parser().parse_args(["--database", str(office.database), "login", "max-1"])

    with pytest.raises(Refused, match="did not take the code") as caught:
        log_in(Desk(person, environ=office.environ, browse=person.browse).console(), arguments)

    text = "".join(traceback.format_exception(caught.value))
    sent = next(request.json() for request in office.upstream.requests if request.path == TOKEN)
    assert sent["code"] not in text
    assert sent["code_verifier"] not in text
