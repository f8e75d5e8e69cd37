"""Recorded requests as other programs read them: JSON lines, HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/).

No credential is in either: the headers of requests and answers are not recorded, and those here are made of what is.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ccflare_core import __version__
from ccflare_core.anthropic.conversation import decoded
from ccflare_core.transcripts.read import Body

Row = Mapping[str, Any]

HAR_BEGIN = f'{{"log":{{"version":"1.2","creator":{{"name":"ccflare","version":"{__version__}"}},"entries":[\n'
HAR_END = "\n]}}\n"
"""What stands around the entries, which have a comma between them."""


def record(row: Row, attempts: Sequence[Row], request: Body | None, answer: Body | None) -> dict[str, Any]:
    """A request with all that is kept of it; bodies as they were on the wire."""
    bodies = {"request": _exact(request), "response": _exact(answer)}
    return {**row, "attempts": [dict(each) for each in attempts], "bodies": bodies}


def har_entry(row: Row, upstream: str, request: Body | None, answer: Body | None) -> dict[str, Any]:
    """A request as an entry of a HAR; bodies without their content coding. What is unknown is -1, as HAR has it."""
    url, first = f"{upstream}{row['path']}", row["first_byte_ms"]
    took = row["response_time_ms"] or 0.0
    wait = took if first is None else first
    return {
        "startedDateTime": datetime.fromtimestamp(row["timestamp"] / 1000, UTC).isoformat(timespec="milliseconds"),
        "time": took,
        "request": {
            "method": row["method"],
            "url": url,
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": _headers(("user-agent", row["user_agent"]), ("content-type", request and request.content_type)),
            "queryString": [{"name": n, "value": v} for n, v in parse_qsl(urlsplit(url).query, keep_blank_values=True)],
            "headersSize": -1,
            "bodySize": -1 if row["request_bytes"] is None else row["request_bytes"],
            **({"postData": _post(request)} if request else {}),
        },
        "response": _response(row, answer),
        "cache": {},
        "timings": {"send": 0, "wait": wait, "receive": max(0.0, took - wait)},
        "comment": f"{row['id']} {row['outcome'] or 'open'}",
    }


def _response(row: Row, answer: Body | None) -> dict[str, Any]:
    status = row["status_code"] or 0
    content: dict[str, Any] = {"size": row["response_bytes"] or 0, "mimeType": answer.content_type if answer else ""}
    if answer:
        text, encoding = _text(decoded(answer.content, answer.content_encoding))
        content |= {"text": text, **({"encoding": encoding} if encoding else {})}
    return {
        "status": status,
        "statusText": HTTPStatus(status).phrase if status in set(HTTPStatus) else "",
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _headers(("content-type", answer and answer.content_type)),
        "content": content,
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": -1 if row["response_bytes"] is None else row["response_bytes"],
    }


def _post(body: Body) -> dict[str, Any]:
    text, encoding = _text(decoded(body.content, body.content_encoding))
    return {"mimeType": body.content_type, "text": text, **({"_encoding": encoding} if encoding else {})}


def _headers(*headers: tuple[str, str | None]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in headers if value]


def _exact(body: Body | None) -> dict[str, Any] | None:
    if body is None:
        return None
    text, encoding = _text(body.content)
    facts = {name: getattr(body, name) for name in ("content_type", "content_encoding", "truncated")}
    return {**facts, "encoding": encoding, "text": text}


def _text(content: bytes) -> tuple[str, str]:
    """The bytes as text, and how: "" if they are UTF-8, else "base64"."""
    try:
        return content.decode(), ""
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), "base64"
