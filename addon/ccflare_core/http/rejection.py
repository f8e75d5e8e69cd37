"""A rejection: the status, the sentence and the rest of what a refused request is told. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request gets no further, for its client and for the audit log."""

    status: int
    message: str
    retry_after: int | None = None
    """In how many seconds another try makes sense."""
    is_final: bool = False
    """Whether programs should not try again by themselves."""
    allow: tuple[str, ...] = ()
    """The methods that would do."""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    """The header fields that the answer has beside the usual ones, such as a challenge."""
    audit: str = ""
    """The reason in the audit log; "" leaves no entry there."""
    is_recorded: bool = True
    """Whether the request becomes an exchange, with a row in the database."""
