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


class Meaning(StrEnum):
    """What a code or text tells, whatever the status."""

    DISABLED = "disabled"
    """Nobody but the provider can end it."""
    NO_FUNDS = "no funds"
    MONTHLY_LIMIT = "monthly limit"
    SPEND_LIMIT = "spend limit"
    NO_OAUTH = "no OAuth"
    """The account's organization takes no OAuth tokens."""
    MODEL = "model"
    """The account may not use the model that was asked for."""
    LONG_CONTEXT = "long context"
    """Nor the beta for a long context."""


class Told(NamedTuple):
    """A meaning, and the words for it: ours, or the provider's as they stand in this file."""

    meaning: Meaning
    words: str


class Error(NamedTuple):
    """An error event or body. "" is what it does not say."""

    type: str = ""
    """One of the documented types, or UNLISTED."""
    told: Told | None = None


_CODES: Final = {
    "organization_on_hold": Told(Meaning.DISABLED, f"the provider has put this organization on hold ({SUPPORT})"),
    "cmek_key_disabled": Told(Meaning.DISABLED, f"the organization's own encryption key is disabled ({SUPPORT})"),
    "enforced_spend_limit_reached": Told(Meaning.MONTHLY_LIMIT, "monthly spend limit reached"),
    "contract_spend_limit_reached": Told(Meaning.SPEND_LIMIT, "the contract's spend limit reached"),
}
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
    ("OAuth authentication is currently not allowed", Told(Meaning.NO_OAUTH, "OAuth is not allowed for it")),
    ("The long context beta is not yet available for", Told(Meaning.LONG_CONTEXT, "no long context on this plan")),
    ("The long context beta is not available for", Told(Meaning.LONG_CONTEXT, "no long context on this plan")),
)
_NO_MODEL = Told(Meaning.MODEL, "the model is not available to this account")
_MODEL_TEXTS: Final = tuple(
    re.compile(text)
    for text in (
        r"model: ",
        r"(?:This model|[Cc]laude[A-Za-z0-9 .:@-]{0,80}) is not (?:yet )?available for "
        r"(?:this|your) (?:plan|subscription)",
        r"Your (?:account|organization|API key|plan) does not have access to (?:this model|(?:the )?model |claude-)",
    )
)


def read_error(event: Mapping[str, Any] | None) -> Error | None:
    """What an error event or JSON error body says; None if it is no error of the API's."""
    if not isinstance(event, Mapping) or event.get("type") != "error":
        return None
    error = event.get("error")
    if not isinstance(error, Mapping):
        return Error()
    kind = error.get("type")
    named = known(kind) or UNLISTED if isinstance(kind, str) and kind else ""
    return Error(named, _of_code(error.get("details")) or _of_text(error.get("message")))


def next_month(now: float) -> float:
    """00:00 UTC on the 1st that follows, in epoch seconds: when monthly limits end."""
    date = datetime.fromtimestamp(now, UTC)
    year, month = (date.year + 1, 1) if date.month == 12 else (date.year, date.month + 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()


def _of_code(details: object) -> Told | None:
    code = details.get("error_code") if isinstance(details, Mapping) else None
    return _CODES.get(code) if isinstance(code, str) else None


def _of_text(message: object) -> Told | None:
    if not isinstance(message, str) or len(message) > LONGEST_TEXT:
        return None
    for text, told in _TEXTS:
        if message.startswith(text):
            return told
    return _NO_MODEL if any(pattern.match(message) for pattern in _MODEL_TEXTS) else None
