"""What an error of the API's says of itself: its type, its machine-readable code, a short list of exact texts. Pure.

`error.details.error_code` is in the API since November 2026 and comes first. Texts count only in `error.message`, from
its first character and only in short messages: a long one, or one that begins with the place of a mistake in the
request (`messages.0…`), may quote whatever a client has sent.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from ccflare_core.http.failure_words import known

UNLISTED = "error of an unlisted type"
"""Stands for a type that the documentation does not name."""

LONGEST_TEXT = 400
SUPPORT = "https://support.claude.com"
_PLACE: Final = re.compile(
    r"https://(?:[a-z-]{1,20}\.)?(?:anthropic\.com|claude\.com|claude\.ai)(?:/[a-z-]{1,30}){0,4}"
)
"""The provider's own pages. What is no plain word in an address may be anything: that is not told."""
LONG_CONTEXT = "context-1m"
"""How the beta for a long context begins, whatever its date: texts about it do not spell it out."""


class Meaning(StrEnum):
    """What a code or text tells, whatever the status."""

    DISABLED = "disabled"
    """Nobody but a person can end it, with the provider."""
    BLOCKED = "blocked"
    """The account serves nothing at the moment; it may come back by itself."""
    NO_FUNDS = "no funds"
    MONTHLY_LIMIT = "monthly limit"
    SPEND_LIMIT = "spend limit"
    THROTTLE = "throttle"
    """The account's traffic grows too fast: it is asked again in a moment."""
    CREDENTIAL = "credential"
    """The account's token is over, or its organization takes no OAuth tokens."""
    PATH = "path"
    """The account may not use this path: its credential lacks a scope, or its organization is of another kind."""
    MODEL = "model"
    """The account may not use the model that was asked for."""
    CREDITS = "credits"
    """The model that was asked for is paid by credits, and the account has none."""
    BETA = "beta"
    """The account may not use a beta that was asked for."""
    REQUEST = "request"
    """It is about what the request names, or where it comes from, whoever's credential it has."""


class Told(NamedTuple):
    """A meaning, and the words for it: ours, or the provider's as they stand in this file."""

    meaning: Meaning
    words: str
    names: tuple[str, ...] = ()
    """Words of the message that may be the betas it is about, or how they begin. They are upstream's: only what the
    request itself has asked for is to be taken from them."""


class Error(NamedTuple):
    """An error event or body. "" is what it does not say."""

    type: str = ""
    """One of the documented types, or UNLISTED."""
    told: Told | None = None


# The SDK (anthropic 2.14.0) has the codes with their statuses; Claude Code 2.1.332 has four more of them.
_CODES: Final = {
    "organization_on_hold": Told(Meaning.DISABLED, f"the provider has put this organization on hold ({SUPPORT})"),
    "verification_required": Told(Meaning.DISABLED, f"the provider wants this account verified ({SUPPORT})"),
    "cmek_key_disabled": Told(Meaning.DISABLED, f"the organization's own encryption key is disabled ({SUPPORT})"),
    "claude_code_key_creator_not_member": Told(
        Meaning.DISABLED, f"the user who made this API key has left the organization ({SUPPORT})"
    ),
    "cmek_key_network_blocked": Told(Meaning.BLOCKED, "the organization's own encryption key cannot be reached"),
    "enforced_spend_limit_reached": Told(Meaning.MONTHLY_LIMIT, "monthly spend limit reached"),
    "contract_spend_limit_reached": Told(Meaning.SPEND_LIMIT, "the contract's spend limit reached"),
    "ramp_limit_exceeded": Told(Meaning.THROTTLE, "short throttle"),
    "organization_type_not_supported": Told(Meaning.PATH, "not for organizations of this kind"),
    "parent_organization_required": Told(Meaning.PATH, "not for organizations of this kind"),
    "api_key_scope_missing": Told(Meaning.PATH, "the key lacks a scope"),
    "model_access_suspended": Told(Meaning.MODEL, "the model is suspended for this account"),
    "credits_required": Told(Meaning.CREDITS, "out of credits"),
    "extra_usage_out_of_credits": Told(Meaning.CREDITS, "out of credits"),
    "organization_not_enrolled_in_beta": Told(Meaning.BETA, "not enrolled in the beta"),
    # The user profile that a request names has an organization of its own, which is to pay for it.
    "linked_organization_billing_unavailable": Told(Meaning.REQUEST, "the user profile's organization cannot pay"),
    "linked_organization_spend_limit_reached": Told(Meaning.REQUEST, "the user profile's organization cannot pay"),
    "user_profile_billing_not_authorized": Told(Meaning.REQUEST, "the user profile's organization does not pay"),
    "user_profile_not_billable": Told(Meaning.REQUEST, "the user profile's organization does not pay"),
    "sandbox_egress_restricted": Told(Meaning.REQUEST, "not from a sandbox"),
}
_NO_LONG_CONTEXT = Told(Meaning.BETA, "no long context on this plan", (LONG_CONTEXT,))
# Where clients match the same sentences (Claude Code 2.1.330 has them as strings), they are these.
_TEXTS: Final = (
    (
        "This organization has been disabled.",
        Told(Meaning.DISABLED, f"This organization has been disabled. ({SUPPORT})"),
    ),
    ("Your credit balance is too low", Told(Meaning.NO_FUNDS, "credit balance is too low")),
    ("You have reached your specified API usage limits", Told(Meaning.MONTHLY_LIMIT, "monthly usage limit reached")),
    (
        "You have reached your specified workspace API usage limits",
        Told(Meaning.MONTHLY_LIMIT, "the workspace's monthly usage limit reached"),
    ),
    ("OAuth authentication is currently not allowed", Told(Meaning.CREDENTIAL, "OAuth is not allowed for it")),
    ("OAuth token has been revoked", Told(Meaning.CREDENTIAL, "the token has been revoked")),
    ("OAuth token does not meet scope requirement", Told(Meaning.PATH, "the token lacks a scope")),
    ("Extra usage is required for long context", Told(Meaning.REQUEST, "a long context needs extra usage")),
    ("Usage credits are required for long context", Told(Meaning.REQUEST, "a long context needs credits")),
    ("The long context beta is not yet available for", _NO_LONG_CONTEXT),
    ("The long context beta is not available for", _NO_LONG_CONTEXT),
    ("This authentication style is incompatible with the long context beta", _NO_LONG_CONTEXT),
)
_NO_MODEL = Told(Meaning.MODEL, "the model is not available to this account")
_MODEL_TEXTS: Final = tuple(
    re.compile(text)
    for text in (
        r"model: ",
        r"(?:This model|[Cc]laude[A-Za-z0-9 .:@-]{0,80}) is not (?:yet )?available for "
        r"(?:this|your) (?:plan|subscription)",
        r"[Cc]laude[A-Za-z0-9 .:@-]{0,80} is suspended for this organization",
        r"Your (?:account|organization|API key|plan) does not have access to (?:this model|(?:the )?model |claude-)",
    )
)
_OWNER = r"(?:organization|account|workspace|plan|subscription|API key)"
_BETA_NAME = r"`?[a-z0-9][a-z0-9-]{2,79}`?"
_BETA_TEXTS: Final = tuple(
    re.compile(text)
    for text in (
        r"Unexpected value\(s\) (?:`[^`]{1,80}`(?:, )?)+ for the `anthropic[-_]beta` header",
        rf"(?:The )?(?:beta )?{_BETA_NAME} (?:beta )?is not (?:yet )?(?:available|enabled|supported) "
        rf"(?:for|on) (?:this|your) {_OWNER}",
        rf"(?:This|Your) {_OWNER} (?:is not enrolled in|does not have access to) (?:the )?(?:beta )?{_BETA_NAME}",
    )
)
_NAME: Final = re.compile(r"(?<![a-z0-9-])[a-z0-9][a-z0-9-]{2,79}(?![a-z0-9-])")


def read_error(event: Mapping[str, Any] | None) -> Error | None:
    """What an error event or JSON error body says; None if it is no error of the API's."""
    if not isinstance(event, Mapping) or event.get("type") != "error":
        return None
    error = event.get("error")
    if not isinstance(error, Mapping):
        return Error()
    kind = error.get("type")
    named = known(kind) or UNLISTED if isinstance(kind, str) and kind else ""
    message = error.get("message")
    text = message if isinstance(message, str) and len(message) <= LONGEST_TEXT else ""
    return Error(named, _of_code(error.get("details"), text) or _of_text(text))


def next_month(now: float) -> float:
    """00:00 UTC on the 1st that follows, in epoch seconds: when monthly limits end."""
    date = datetime.fromtimestamp(now, UTC)
    year, month = (date.year + 1, 1) if date.month == 12 else (date.year, date.month + 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()


def _of_code(details: object, text: str) -> Told | None:
    if not isinstance(details, Mapping):
        return None
    code = details.get("error_code")
    told = _CODES.get(code) if isinstance(code, str) else None
    if told is None:
        return None
    if told.meaning is Meaning.DISABLED:
        return told._replace(words=told.words.replace(SUPPORT, _link(details)))
    return told._replace(names=_names(text)) if told.meaning is Meaning.BETA else told


def _link(details: Mapping[str, Any]) -> str:
    """Where a person can do something about it, if the provider names one of its own pages."""
    links = (details.get(name) for name in ("appeal_url", "remediation_url"))
    return next((link for link in links if isinstance(link, str) and _PLACE.fullmatch(link)), SUPPORT)


def _of_text(text: str) -> Told | None:
    for beginning, told in _TEXTS:
        if text.startswith(beginning):
            return told
    if any(pattern.match(text) for pattern in _MODEL_TEXTS):
        return _NO_MODEL
    if any(pattern.match(text) for pattern in _BETA_TEXTS):
        return Told(Meaning.BETA, "not available to this account", _names(text))
    return None


def _names(text: str) -> tuple[str, ...]:
    return tuple(_NAME.findall(text))
