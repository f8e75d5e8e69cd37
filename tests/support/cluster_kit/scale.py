"""How much of everything, and the rows that the processes write down."""

from typing import Any, NamedTuple


class Scale(NamedTuple):
    """A run's size. Times are seconds."""

    proxies: int
    accounts: int
    sessions: int
    seconds: float
    """How long requests are begun."""
    rate: float
    """Requests a second, of all sessions together."""
    move_share: float = 0.1
    """Of the turns: those before which a session goes to another proxy."""
    leave_share: float = 0.01
    """Of the streams: those whose client leaves in the midst."""
    stream_share: float = 0.5
    limit_share: float = 0.02
    """Of the requests: those that find that the account has just reached a limit."""
    token_seconds: float = 75.0
    """How long access tokens last."""
    refresh_before: int = 30
    seed: int = 1


FULL = Scale(proxies=4, accounts=50, sessions=2000, seconds=600.0, rate=30.0)
SHORT = Scale(proxies=2, accounts=10, sessions=200, seconds=60.0, rate=20.0)


class Sent(NamedTuple):
    """A request of the load, by its number. Epoch seconds."""

    number: int
    session: str
    turn: int
    proxy: int
    at: float
    ended: float
    came: str
    """The status that was answered, `left` if the client went away, or what went wrong."""


class Asked(NamedTuple):
    """A request as it came to the upstream. Epoch seconds."""

    at: float
    account: str
    proxy: int
    number: int
    family: str
    status: int


class Late(NamedTuple):
    """That an event loop or a thread woke at `at` (epoch seconds) later than it had asked for, by so many seconds."""

    at: float
    seconds: float


class LateProxy(NamedTuple):
    """How late a proxy was: its event loop, and a thread of it that gives way as the writer's does."""

    loop: list[Late]
    thread: list[Late]


class Refreshes(NamedTuple):
    """What the token endpoint was asked."""

    total: int
    spent_twice: int
    """Refresh tokens that were used more than once."""


def account_name(number: int) -> str:
    """The name of the account of this number, which is also its id."""
    return f"max-{number:04d}"


def tokens(name: str, serial: int) -> tuple[str, str]:
    """The access and the refresh token that an account gets by its refresh number `serial`; 0 is its login."""
    return tuple(f"sk-ant-{kind}01-{name}-{serial:06d}-{'x' * 40}" for kind in ("oat", "ort"))  # type: ignore[return-value]


def owner(token: str) -> tuple[str, int]:
    """Whose token it is: the account's name, and the serial number."""
    _, _, _, *name, serial, _ = token.split("-")
    return "-".join(name), int(serial)


def rows_of[Row: tuple[Any, ...]](kind: type[Row], found: list[list[Any]]) -> list[Row]:
    """Rows that came as JSON."""
    return [kind(*each) for each in found]
