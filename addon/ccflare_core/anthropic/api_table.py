"""The table of the API's paths: by which methods and shapes a request gets an account's credential, and for what.

As the SDKs have them (anthropic 2.14.0; /v1/complete: 0.97.0), and Claude Code (cache_touch). Everything else that the
upstream host serves (/api/oauth, /v1/code, /v1/mcp_servers, /v1/organizations, telemetry) belongs to the client's own
login, and answers 403 to a foreign one. So do /v1/tunnels and /v1/user_profiles, which are about an organization's own
network and people.
"""

from enum import StrEnum
from typing import Final, NamedTuple

MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
BATCHES: Final = "/v1/messages/batches"
FILES: Final = "/v1/files"
CACHE_TOUCH: Final = "/v1/messages/cache_touch"
RESULTS: Final = "/v1/messages/batches/{id}/results"
COMPLETE: Final = "/v1/complete"


class PathClass(StrEnum):
    """What a request on a path of the API does."""

    MODEL = "model"
    """Names in its body the models that it wants to run or count for."""
    RESOURCE = "resource"
    """Lists, reads or changes what the account has: models, batches, files, skills."""
    STATEFUL = "stateful"
    """The same of Managed Agents, which live in one account: served by the one that ccflare_stateful_account names."""
    WORKER = "worker"
    """Asks for work for an environment, with a key of the environment's own: an account's is refused."""


class Rule(NamedTuple):
    """Requests that are alike; `{id}` in the path's shape stands for one segment."""

    methods: tuple[str, ...]
    shape: str
    path_class: PathClass
    resource: str
    """What of an account they use: limits and refusals of one say nothing of another."""


_MODEL, _RESOURCE, _STATEFUL, _WORKER = PathClass
_GET, _POST, _GET_POST, _GET_DELETE = ("GET",), ("POST",), ("GET", "POST"), ("GET", "DELETE")
_ALL = ("GET", "POST", "DELETE")

# A path that two shapes fit is of the first.
API: Final = (
    Rule(_POST, MESSAGES, _MODEL, "messages"),
    Rule(_POST, COUNT_TOKENS, _MODEL, "count_tokens"),
    Rule(_POST, CACHE_TOUCH, _RESOURCE, "cache_touch"),
    Rule(_POST, BATCHES, _MODEL, "batches"),
    Rule(_GET, BATCHES, _RESOURCE, "batches"),
    Rule(_GET_DELETE, "/v1/messages/batches/{id}", _RESOURCE, "batches"),
    Rule(_POST, "/v1/messages/batches/{id}/cancel", _RESOURCE, "batches"),
    Rule(_GET, RESULTS, _RESOURCE, "batches"),
    Rule(_POST, COMPLETE, _MODEL, "messages"),
    Rule(_GET, "/v1/models", _RESOURCE, "models"),
    Rule(_GET, "/v1/models/{id}", _RESOURCE, "models"),
    Rule(_GET_POST, FILES, _RESOURCE, "files"),
    Rule(_GET_DELETE, "/v1/files/{id}", _RESOURCE, "files"),
    Rule(_GET, "/v1/files/{id}/content", _RESOURCE, "files"),
    Rule(_GET_POST, "/v1/skills", _RESOURCE, "skills"),
    Rule(_GET_DELETE, "/v1/skills/{id}", _RESOURCE, "skills"),
    Rule(_GET_POST, "/v1/skills/{id}/versions", _RESOURCE, "skills"),
    Rule(_GET_DELETE, "/v1/skills/{id}/versions/{id}", _RESOURCE, "skills"),
    Rule(_GET, "/v1/skills/{id}/versions/{id}/content", _RESOURCE, "skills"),
    Rule(_GET_POST, "/v1/agents", _STATEFUL, "agents"),
    Rule(_GET_POST, "/v1/agents/{id}", _STATEFUL, "agents"),
    Rule(_POST, "/v1/agents/{id}/archive", _STATEFUL, "agents"),
    Rule(_GET, "/v1/agents/{id}/versions", _STATEFUL, "agents"),
    Rule(_GET_POST, "/v1/environments", _STATEFUL, "environments"),
    Rule(_ALL, "/v1/environments/{id}", _STATEFUL, "environments"),
    Rule(_POST, "/v1/environments/{id}/archive", _STATEFUL, "environments"),
    Rule(_GET, "/v1/environments/{id}/work", _WORKER, "environments"),
    Rule(_GET, "/v1/environments/{id}/work/poll", _WORKER, "environments"),
    Rule(_GET, "/v1/environments/{id}/work/stats", _STATEFUL, "environments"),
    Rule(_GET_POST, "/v1/environments/{id}/work/{id}", _STATEFUL, "environments"),
    Rule(_POST, "/v1/environments/{id}/work/{id}/ack", _WORKER, "environments"),
    Rule(_POST, "/v1/environments/{id}/work/{id}/heartbeat", _WORKER, "environments"),
    Rule(_POST, "/v1/environments/{id}/work/{id}/stop", _STATEFUL, "environments"),
    Rule(_GET_POST, "/v1/sessions", _STATEFUL, "sessions"),
    Rule(_ALL, "/v1/sessions/{id}", _STATEFUL, "sessions"),
    Rule(_POST, "/v1/sessions/{id}/archive", _STATEFUL, "sessions"),
    Rule(_GET_POST, "/v1/sessions/{id}/events", _STATEFUL, "sessions"),
    Rule(_GET, "/v1/sessions/{id}/events/stream", _STATEFUL, "sessions"),
    Rule(_GET_POST, "/v1/sessions/{id}/resources", _STATEFUL, "sessions"),
    Rule(_ALL, "/v1/sessions/{id}/resources/{id}", _STATEFUL, "sessions"),
    Rule(_GET, "/v1/sessions/{id}/threads", _STATEFUL, "sessions"),
    Rule(_GET, "/v1/sessions/{id}/threads/{id}", _STATEFUL, "sessions"),
    Rule(_POST, "/v1/sessions/{id}/threads/{id}/archive", _STATEFUL, "sessions"),
    Rule(_GET, "/v1/sessions/{id}/threads/{id}/events", _STATEFUL, "sessions"),
    Rule(_GET, "/v1/sessions/{id}/threads/{id}/stream", _STATEFUL, "sessions"),
    Rule(_GET_POST, "/v1/deployments", _STATEFUL, "deployments"),
    Rule(_GET_POST, "/v1/deployments/{id}", _STATEFUL, "deployments"),
    Rule(_POST, "/v1/deployments/{id}/archive", _STATEFUL, "deployments"),
    Rule(_POST, "/v1/deployments/{id}/pause", _STATEFUL, "deployments"),
    Rule(_POST, "/v1/deployments/{id}/run", _STATEFUL, "deployments"),
    Rule(_POST, "/v1/deployments/{id}/unpause", _STATEFUL, "deployments"),
    Rule(_GET, "/v1/deployment_runs", _STATEFUL, "deployment_runs"),
    Rule(_GET, "/v1/deployment_runs/{id}", _STATEFUL, "deployment_runs"),
    Rule(_GET_POST, "/v1/dreams", _STATEFUL, "dreams"),
    Rule(_GET, "/v1/dreams/{id}", _STATEFUL, "dreams"),
    Rule(_POST, "/v1/dreams/{id}/archive", _STATEFUL, "dreams"),
    Rule(_POST, "/v1/dreams/{id}/cancel", _STATEFUL, "dreams"),
    Rule(_GET_POST, "/v1/memory_stores", _STATEFUL, "memory_stores"),
    Rule(_ALL, "/v1/memory_stores/{id}", _STATEFUL, "memory_stores"),
    Rule(_POST, "/v1/memory_stores/{id}/archive", _STATEFUL, "memory_stores"),
    Rule(_GET_POST, "/v1/memory_stores/{id}/memories", _STATEFUL, "memory_stores"),
    Rule(_ALL, "/v1/memory_stores/{id}/memories/{id}", _STATEFUL, "memory_stores"),
    Rule(_GET, "/v1/memory_stores/{id}/memory_versions", _STATEFUL, "memory_stores"),
    Rule(_GET, "/v1/memory_stores/{id}/memory_versions/{id}", _STATEFUL, "memory_stores"),
    Rule(_POST, "/v1/memory_stores/{id}/memory_versions/{id}/redact", _STATEFUL, "memory_stores"),
    Rule(_GET_POST, "/v1/vaults", _STATEFUL, "vaults"),
    Rule(_ALL, "/v1/vaults/{id}", _STATEFUL, "vaults"),
    Rule(_POST, "/v1/vaults/{id}/archive", _STATEFUL, "vaults"),
    Rule(_GET_POST, "/v1/vaults/{id}/credentials", _STATEFUL, "vaults"),
    Rule(_ALL, "/v1/vaults/{id}/credentials/{id}", _STATEFUL, "vaults"),
    Rule(_POST, "/v1/vaults/{id}/credentials/{id}/archive", _STATEFUL, "vaults"),
    Rule(_POST, "/v1/vaults/{id}/credentials/{id}/mcp_oauth_validate", _STATEFUL, "vaults"),
)
