"""The second factor: codes of an authenticator app (RFC 6238), each good once, and codes for the day it is lost.

What authenticator apps have in common: HMAC-SHA-1, six digits, a new code every 30 s. One step to either side is
taken, for clocks that differ. Wrong codes make the next try wait, longer each time: a million codes cannot be tried.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

DIGITS = 6
STEP_SECONDS = 30
SEED_BYTES = 20
"""160 bits, as RFC 4226 (4) recommends."""
PEPPER_BYTES = 32
RECOVERY_CODES = 10
RECOVERY_BYTES = 5
"""40 random bits in eight letters and digits."""

FREE_TRIES = 5
"""Wrong codes in a row before the next one has to wait."""
FIRST_WAIT, LONGEST_WAIT = 2.0, 3600.0


class Secret(NamedTuple):
    """What is sealed: the seed that the app has too, and the key under which recovery codes are kept."""

    seed: bytes
    pepper: bytes

    def __repr__(self) -> str:
        return "Secret(…)"

    @classmethod
    def new(cls) -> "Secret":
        """A random one."""
        return cls(secrets.token_bytes(SEED_BYTES), secrets.token_bytes(PEPPER_BYTES))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Secret":
        """What `bytes` gave."""
        return cls(data[:SEED_BYTES], data[SEED_BYTES:])

    def __bytes__(self) -> bytes:
        return self.seed + self.pepper

    @property
    def text(self) -> str:
        """The seed as a person types it into an app."""
        return base64.b32encode(self.seed).decode()

    def uri(self, label: str) -> str:
        """The seed as an app reads it from a QR code (the otpauth:// format of Google Authenticator)."""
        asked = urlencode({"secret": self.text, "issuer": "ccflare", "digits": DIGITS, "period": STEP_SECONDS})
        return f"otpauth://totp/ccflare:{quote(label)}?{asked}"

    def digest(self, code: str) -> str:
        """What is kept of a recovery code."""
        return hmac.new(self.pepper, plain(code).encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Factor:
    """A second factor as it stands in the database. Times are epoch seconds."""

    secret: Secret = field(repr=False)
    is_confirmed: bool = False
    """Whether its owner has shown that the app has it: before that nobody is asked for a code."""
    last_step: int = 0
    """The newest step whose code was used: that code and all older ones are worthless."""
    failures: int = 0
    retry_at: float = 0.0
    recovery: frozenset[str] = field(default=frozenset(), repr=False)
    """The digests of the recovery codes that are left."""


LOST = Factor(Secret(b"", b""), is_confirmed=True)
"""One that somebody else has changed or removed: a code is asked for, and none is right."""


class Used(NamedTuple):
    """A code that was right: how the factor stands now, and which recovery code is gone, if it was one."""

    factor: Factor
    recovery: str | None = None


class Wrong(NamedTuple):
    """A code that was not, or came too early: how the factor stands now, and in how many seconds to try again."""

    factor: Factor
    retry_after: float


def code_at(seed: bytes, step: int, digits: int = DIGITS) -> str:
    """The code of a step: the number of 30 s since 1970."""
    return HOTP(seed, digits, SHA1(), enforce_key_length=False).generate(step).decode()  # noqa: S303


def step_at(now: float) -> int:
    """The step of a moment."""
    return int(now // STEP_SECONDS)


def plain(code: str) -> str:
    """A code as people type it, without their spaces and dashes."""
    return code.replace(" ", "").replace("-", "").upper()


def new_recovery_codes(count: int = RECOVERY_CODES) -> list[str]:
    """Codes for the day the app is lost, as they are shown."""
    made = (base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode() for _ in range(count))
    return [f"{code[:4]}-{code[4:]}" for code in made]


def check(factor: Factor, code: str, now: float) -> Used | Wrong:
    """Whether this is a code of the factor's, not used yet. While a try has to wait, right ones are refused too."""
    if factor is LOST:
        return Wrong(factor, 0.0)
    if now < factor.retry_at:
        return Wrong(factor, factor.retry_at - now)
    typed = plain(code)[:64]
    if (step := _matching_step(factor, typed, now)) is not None:
        return Used(replace(factor, last_step=step, failures=0, retry_at=0.0))
    digest = factor.secret.digest(typed)
    if factor.is_confirmed and digest in factor.recovery:
        return Used(replace(factor, failures=0, retry_at=0.0, recovery=factor.recovery - {digest}), digest)
    failures = factor.failures + 1
    wait = 0.0 if failures < FREE_TRIES else min(FIRST_WAIT * 2 ** min(failures - FREE_TRIES, 20), LONGEST_WAIT)
    return Wrong(replace(factor, failures=failures, retry_at=now + wait), wait)


def _matching_step(factor: Factor, typed: str, now: float) -> int | None:
    """The step whose code this is. All are compared, so that the time tells nothing."""
    around = range(step_at(now) - 1, step_at(now) + 2)
    typed = typed if typed.isascii() else ""
    found = [step for step in around if hmac.compare_digest(code_at(factor.secret.seed, step), typed)]
    return next((step for step in found if step > factor.last_step), None)


class SecondFactor:
    """The factor that a running proxy asks for.

    `keep` stores what a try has changed, and tells whether its code is used by this try alone: proxies on one database
    may be shown the same one.
    """

    def __init__(self, wall: Callable[[], float], keep: Callable[[Used | Wrong], Awaitable[bool]]) -> None:
        self._wall = wall
        self._keep = keep
        self._factor: Factor | None = None
        self._spent: set[str] = set()

    @property
    def is_needed(self) -> bool:
        """Whether administrative requests have to bring a code."""
        return self._factor is not None and self._factor.is_confirmed

    def replace(self, factor: Factor | None) -> None:
        """Take up what the database has. A code that was used here stays used, whatever is on its way there."""
        mine = self._factor
        if factor is not None and factor is not LOST and mine is not None and factor.secret == mine.secret:
            factor = replace(
                factor,
                last_step=max(factor.last_step, mine.last_step),
                retry_at=max(factor.retry_at, mine.retry_at),
                recovery=factor.recovery - self._spent,
            )
        self._factor = factor

    async def admit(self, code: str | None) -> Wrong | None:
        """Whether a request with this code may change something (None), and else when to try again.

        That a code is used is stored before it counts. Raises what `keep` raises.
        """
        if self._factor is None or not self._factor.is_confirmed:
            return None
        if code is None:
            return Wrong(self._factor, 0.0)
        before, result = self._factor, check(self._factor, code, self._wall())
        self._factor = result.factor
        if isinstance(result, Used) and result.recovery is not None:
            self._spent.add(result.recovery)
        # One that came too early changes nothing.
        is_kept = await self._keep(result) if result.factor != before else True
        if isinstance(result, Wrong):
            return result
        return None if is_kept else Wrong(result.factor, 0.0)
