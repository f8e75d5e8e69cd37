"""`accounts.py login`: the person allows it in the browser and pastes the code; tokens or a new API key are stored.

Whatever goes wrong before that leaves nothing behind but the sentence that says so.
"""

import argparse
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ccflare_cli.accounts.add import account_called, checked_name, described, new_id, opened, tell_of_end
from ccflare_cli.console import OK, Console, Refused, fetcher, read_settings
from ccflare_cli.output import local
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.identity import is_anothers, twin_by_login
from ccflare_core.accounts.priority import DEFAULT
from ccflare_core.anthropic import oauth
from ccflare_core.anthropic.oauth import Mode, Owner, PendingLogin, Tokens
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError, StoreError, TokenRejected, TokenUnavailable
from ccflare_core.http.messages import Request, Response
from ccflare_core.store.store import Store

if TYPE_CHECKING:
    from ccflare_core.http.client import Fetcher

_KEYS_PAGE = "https://platform.claude.com/settings/keys"
_HINTED_LENGTH = 60
"""The hint of a shorter key would tell too much of it."""


def add_login_options(parser: argparse.ArgumentParser) -> None:
    """What a login can be told."""
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help="max: the tokens of a subscription (default); console: a new API key, billed by use",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address of the login page instead of opening it"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="if this is another person's login, let it take the account's place; if it is that of an account with "
        "another name, rename that one",
    )


def log_in(console: Console, arguments: argparse.Namespace, *, may_renew: bool = True) -> int:
    """Log in as a new account or, if that may be, anew as one that is there."""
    name = checked_name(arguments.name)
    settings = read_settings(console, arguments.database)
    from ccflare_core.http.pinning import PinGuard  # as in console.py: all commands import this module

    pins = PinGuard(lambda: settings.upstream_pins, enforced=lambda: settings.pins_mode == "enforce")
    client = fetcher(console, settings, pins=pins, egress=lambda: settings.egress)
    with opened(console, settings) as store:
        account = account_called(store, name)
        if account and not may_renew:
            raise Refused(f"There is an account called {name} already: `login` renews its login.")
        login = _Login(console, settings.endpoints, client, store, name, account, arguments)
        mode, browse = _mode(arguments, account), not arguments.no_browser
        try:
            stored = login.redeem(*_allowed(console, settings, store, name, mode, browse))
        except CCFlareError as error:
            with contextlib.suppress(StoreError):  # nothing was done, and the person hears of it in any case
                store.note("login.done", name, "failed", mode=mode.value, reason=str(error))
            raise
    console.say(f"{login.done} ({described(stored, console.now())}).")
    tell_of_end(console, stored)
    return OK


def _mode(arguments: argparse.Namespace, account: Account | None) -> Mode:
    wanted = Mode(arguments.mode or Mode.MAX)
    if account is not None and (account.kind is Kind.OAUTH) is not (wanted is Mode.MAX):
        how = "has an API key: --mode console makes it a new one" if wanted is Mode.MAX else "is a subscription's"
        raise Refused(f"{account.name} {how}; for another login choose another name.")
    return wanted


def _allowed(
    console: Console, settings: Settings, store: Store, name: str, mode: Mode, browse: bool
) -> tuple[PendingLogin, str]:
    """The login that the person has allowed, and the code that proves it. It cannot be had a second time."""
    begun = PendingLogin.begin(mode, console.now())
    session = store.sessions.begin(name, begun)
    try:
        pasted = _ask_for_code(console, oauth.authorize_url(settings.endpoints, begun), browse)
        pending = store.sessions.take(session, name)
        code, state = oauth.parse_code(pasted)
        oauth.check_state(pending, state)
    except ValueError as error:
        raise Refused(f"{error}.") from None
    finally:
        store.sessions.discard(session)
    return pending, code


def _ask_for_code(console: Console, url: str, browse: bool) -> str:
    console.say("Allow the login on this page, then copy the code that it shows:")
    console.write(f"\n{url}\n")
    if browse and console.browse(url):
        console.say("Your browser should have it open.")
    return console.ask("Paste the code:")


class _Login:
    """What turns a code into an account. `account` is the one that logs in anew, if any."""

    def __init__(
        self,
        console: Console,
        endpoints: oauth.Endpoints,
        fetcher: "Fetcher",
        store: Store,
        name: str,
        account: Account | None,
        arguments: argparse.Namespace,
    ) -> None:
        self._console = console
        self._endpoints = endpoints
        self._fetcher = fetcher
        self._store = store
        self._name = name
        self._account = account
        self._priority: int | None = arguments.priority
        self._may_replace: bool = arguments.replace
        self.done = f"Added {name}"
        """What has become of the login, as the beginning of a sentence."""

    def redeem(self, pending: PendingLogin, code: str) -> Account:
        """The account as it is stored now."""
        tokens = self._exchange(pending, code)
        if tokens.owner.email:
            self._console.say(f"The provider knows you as {tokens.owner.email}.")
        place = self._place(tokens.owner, Kind.API_KEY if pending.mode is Mode.CONSOLE else Kind.OAUTH)
        if pending.mode is Mode.CONSOLE:
            return self._make_key(tokens, place)
        return self._store_account(
            place,
            Kind.OAUTH,
            tokens.owner,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_at=tokens.expires_at,
            login_at=self._console.now(),
            login_expires_at=tokens.login_expires_at if tokens.refresh_token else None,
            needs_login=False,
        )

    def _exchange(self, pending: PendingLogin, code: str) -> Tokens:
        answer = self._send(oauth.exchange_request(self._endpoints, pending, code))
        try:
            return oauth.read_answer(answer.status, answer.content_type, answer.body, self._console.now())
        except TokenRejected:  # it speaks of refresh tokens
            raise Refused(
                "The provider did not take the code: it is not whole, was used before, or is too old; begin again."
            ) from None

    def _make_key(self, tokens: Tokens, place: Account | None) -> Account:
        request = oauth.create_key_request(self._endpoints, tokens.access_token)
        try:
            answer = self._send(request)
            key = oauth.read_key(answer.status, answer.content_type, answer.body)
        except TokenUnavailable as error:
            when = f"{local(self._console.now()):%H:%M}"
            raise Refused(
                f"{error}.\nNothing was stored. If {_KEYS_PAGE} shows a key made at {when}, delete it there."
            ) from None
        with self._accounted_for(key):
            account = self._store_account(place, Kind.API_KEY, tokens.owner, api_key=key)
        if self._account is not None:
            self._console.complain(f"Its old key still works until you delete it at {_KEYS_PAGE}.")
        return account

    def _place(self, owner: Owner, kind: Kind) -> Account | None:
        """The account that this login renews; None for a new one. Raises Refused if it is somebody else's."""
        all_ = self._store.accounts.all()
        found = next((each for each in all_ if each.name == self._name), None)
        if (found and found.id) != (self._account and self._account.id):  # while the person was in the browser
            raise StoreError(f"{self._name} was added, removed or renamed meanwhile: begin again")
        twin = twin_by_login(owner, all_) if kind is Kind.OAUTH else None
        if twin is not None and twin != found:
            if self._may_replace and found is None:
                return twin
            rename = f", and --replace renames it to {self._name}" if found is None else ""
            raise Refused(f"This is the login of {twin.name} already: `login {twin.name}` renews it{rename}.")
        if found is not None and is_anothers(found, owner) and not self._may_replace:
            raise Refused(
                f"This is another login than that of {self._name}: allow it as the same person and organization, or "
                "choose another name, or let it take the account's place with --replace."
            )
        return found

    @contextmanager
    def _accounted_for(self, key: str) -> Iterator[None]:
        """Tell how to find the new key at the provider if it could not be stored, for whatever reason."""
        try:
            yield
        except BaseException:
            shown = f"it is shown as {key[:16]}...{key[-4:]} and " if len(key) >= _HINTED_LENGTH else "it "
            self._console.complain(
                f"The API key that was made for {self._name} could not be stored. Delete it at {_KEYS_PAGE}: "
                f"{shown}was made at {local(self._console.now()):%H:%M}."
            )
            raise

    def _store_account(self, place: Account | None, kind: Kind, owner: Owner, **fields: Any) -> Account:
        ids = {"person_id": owner.account_id if kind is Kind.OAUTH else None, "organization_id": owner.organization_id}
        fields |= {name: value for name, value in ids.items() if value is not None}
        if place is None:
            return self._add(self._priority or DEFAULT, kind, **fields)
        priority = self._priority or place.priority
        self.done = f"Renewed the login of {self._name}"
        if is_anothers(place, owner):  # nothing of the old one is the new one's: no limits, and nothing it has made
            self.done = f"Put another login in the place of that of {self._name}"
            with self._store.audited("login.replaced", self._name):
                self._store.accounts.remove(place.id)
                return self._add(priority, kind, paused=place.paused, proxy=place.proxy, **fields)
        if place.name != self._name:
            self.done = f"Renamed {place.name} to {self._name}, with its login renewed"
        self._store.accounts.update(place.id, name=self._name, priority=priority, **fields)
        return self._store.accounts.by_name(self._name)

    def _add(self, priority: int, kind: Kind, **fields: Any) -> Account:
        account = Account(new_id(), self._name, kind, priority, created_at=self._console.now(), **fields)
        with self._store.audited("login.done", self._name):
            self._store.accounts.add(account)
        return account

    def _send(self, request: Request) -> Response:
        proxy = self._account.proxy if self._account is not None else None
        import asyncio

        return asyncio.run(self._fetcher.send(replace(request, proxy=proxy)))
