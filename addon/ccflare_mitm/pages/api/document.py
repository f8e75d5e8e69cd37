"""The OpenAPI document of the API, made of its table of endpoints, and the pages that all of it makes."""

from collections.abc import Iterable
from typing import Any, Final

from ccflare_core import __version__
from ccflare_core.anthropic.answers import Answer, json_answer
from ccflare_core.clients.keys import Permission
from ccflare_core.reports.vocabulary import TEXT, Schema
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.api.endpoint import ID, PREFIX, Endpoint
from ccflare_mitm.pages.api.endpoints import ENDPOINTS
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.visit import Visit

_ABOUT: Final = (
    "What ccflare knows of its accounts and of the requests that it has served. Fields have the names and units that "
    "the scripts give with --format json: times are in UTC or, where the name ends with seconds, durations in seconds; "
    "money is in US dollars. More fields may come, and none goes without a notice in the changelog."
)
_ID: Final[Schema] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "An id, as the lists have it.",
    "schema": {"type": "string", "pattern": ID},
}
_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {"type": TEXT, "message": {**TEXT, "description": "What is wrong and what to do."}},
            "required": ["type", "message"],
        },
        "request_id": TEXT,
    },
    "required": ["type", "error"],
}
_SECURITY: Final[Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A client key."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A client key."},
}


def document(endpoints: Iterable[Endpoint]) -> Schema:
    """All of them."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ccflare", "version": __version__, "description": _ABOUT},
        "servers": [{"url": PREFIX}],
        "security": [{name: []} for name in _SECURITY],
        "paths": {each.path.replace("{name}", "{id}"): {"get": _operation(each)} for each in endpoints},
        "components": {
            "schemas": {"Error": _ERROR},
            "responses": {"Error": _as_json("What is wrong.", {"$ref": "#/components/schemas/Error"})},
            "securitySchemes": _SECURITY,
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    in_path = [_ID] if "{name}" in endpoint.path else []
    answer = (_as_events if endpoint.tells_events else _as_json)(endpoint.about, endpoint.gives)
    errors = {status: {"$ref": "#/components/responses/Error"} for status in ("4XX", "5XX")}
    return {
        "operationId": endpoint.function.__name__,
        "summary": endpoint.about,
        "description": f"Takes the permission `{endpoint.permission}`.",
        "parameters": [*in_path, *(parameter.as_document() for parameter in endpoint.takes)],
        "responses": {**{str(status): answer for status in endpoint.statuses}, **errors},
    }


def _as_json(about: str, schema: Schema) -> Schema:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _as_events(about: str, schemas: Schema) -> Schema:
    """OpenAPI 3.1 has no words for what is in a stream."""
    told = f"Server-sent events: {', '.join(schemas)}. The data of each is JSON, as x-events says."
    stream = {"schema": {**TEXT, "description": told}, "x-events": schemas}
    return {"description": about, "content": {"text/event-stream": stream}}


DOCUMENT: Final = document(ENDPOINTS)


def show_document(admin: Admin, visit: Visit) -> Answer:
    """The document."""
    return json_answer(200, DOCUMENT)


PAGES: Final = (
    *(endpoint.page for endpoint in ENDPOINTS),
    Page(f"{PREFIX}/openapi.json", READ, Permission.DASHBOARD_VIEW, show_document),
)
