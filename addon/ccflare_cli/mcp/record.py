"""What the proxy tells of its record, asked for by its API with a client key."""

import http
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

from ccflare_cli.console import Refused
from ccflare_cli.output import clip, printable
from ccflare_core.config.options import MCP_KEY
from ccflare_core.errors import TokenUnavailable
from ccflare_core.http.messages import Request, Response
from ccflare_core.program import typed

API: Final = "/ccflare/api/v1"
SECONDS: Final = 40.0
"""For one answer: a search may take 30."""

_LONGEST: Final = 300
_MAKE: Final = "`{make}` makes one, which goes into {variable}"
_UNSERVED: Final = f"The proxy serves nobody without a client key: {_MAKE}."
_FIGURES_ALONE: Final = (
    f"Without a client key there are figures alone, and no conversations: {_MAKE}. From the first key on, every client "
    "of the proxy needs one, unless ccflare_open_loopback is on."
)
_NOT_ALLOWED: Final = f"The client key may not see this, since it has no permission logs.view: {_MAKE}."
_UNKNOWN: Final = f"The proxy does not know the client key, or it is over: {_MAKE}."
_NO_ANSWER: Final = "The proxy cannot be asked, for {why}; `{start}` starts it where it does not run."
FOREIGN: Final = "What answers at the proxy's address is no proxy of this version: check the address."

type Send = Callable[[Request], Awaitable[Response]]


class Record:
    """See the module. `place` is the proxy's address as a URL; without a `key` none is shown."""

    def __init__(self, place: str, key: str, send: Send) -> None:
        self._place = place
        self._key = key
        self._send = send

    async def get(self, path: str, **query: str) -> Any:
        """What the API tells. Raises Refused, with what to do about it."""
        response = await self._asked(
            f"{self._place}{API}{path}" + (f"?{urlencode(query, errors='replace')}" if query else "")
        )
        told = _read(response.body)
        if response.status == http.HTTPStatus.OK:
            return told
        raise Refused(self._objection(response.status, told))

    async def _asked(self, url: str) -> Response:
        headers = (("Authorization", f"Bearer {self._key}"),) if self._key else ()
        try:
            return await self._send(Request("GET", url, headers))
        except ValueError as error:
            raise Refused(f"The proxy's address is not one that a key may be sent to: {error}.") from None
        except TokenUnavailable as error:
            why = str(error).partition(";")[0]
        raise Refused(_NO_ANSWER.format(why=why, start=typed("proxy")))

    def _objection(self, status: int, told: Any) -> str:
        known = {
            (401, True): _UNKNOWN,
            (401, False): _UNSERVED,
            (403, True): _NOT_ALLOWED,
            (403, False): _FIGURES_ALONE,
        }
        if text := known.get((status, bool(self._key))):
            return text.format(make=typed("keys client add NAME --role viewer"), variable=MCP_KEY)
        try:
            said = str(told["error"]["message"])
        except (KeyError, TypeError):
            raise Refused(FOREIGN) from None
        if self._key and self._key in said:  # ours says no key
            raise Refused(FOREIGN)
        return clip(printable(said), _LONGEST)


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(FOREIGN) from None
