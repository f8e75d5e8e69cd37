"""The table of the API's paths against the published SDK: what it has of each resource, and nothing else.

The SDK's methods and paths are read out of its source, which stands in the environment of `scripts/test --clients`.
"""

import ast
import re
from collections.abc import Iterator

from ccflare_core.anthropic.routes import API, PathClass
from clients_kit import FOLDER

_METHODS = {"_get": "GET", "_post": "POST", "_put": "PUT", "_patch": "PATCH", "_delete": "DELETE"}
_OTHERS = ("organizations", "compliance", "tunnels", "user_profiles")
"""What of the SDK's resources is nobody's here: it passes with the client's own credential."""
_OF_OUR_OWN = {
    ("POST", "/v1/complete"),
    ("POST", "/v1/messages/cache_touch"),
    ("GET", "/v1/messages/batches/{id}/results"),
}
"""What an older SDK has, what Claude Code has, and what the SDK takes from an answer instead of writing it down."""


def sdk_calls() -> Iterator[tuple[str, str, str]]:
    """The method, the shape of the path, and the source of the function, of each request that the SDK can send."""
    (folder,) = FOLDER.glob("lib/python3*/site-packages/anthropic/resources")
    for path in folder.rglob("*.py"):
        source = path.read_text()
        for function in ast.walk(ast.parse(source)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_source_segment(source, function) or ""
                for method, shape in calls_in(function):
                    yield method, shape, text


def calls_in(function: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if node.func.attr not in (*_METHODS, "_get_api_list"):
            continue
        said = next((name for each in node.keywords if (name := named_method(each))), "get")
        method = _METHODS.get(node.func.attr, said.upper())
        first = node.args[0].args[0] if isinstance(node.args[0], ast.Call) else node.args[0]
        if isinstance(first, ast.Constant):
            yield method, re.sub(r"\{\w+\}", "{id}", str(first.value)).partition("?")[0]
        else:
            assert ast.unparse(first) == "batch.results_url"


def named_method(keyword: ast.keyword) -> str:
    is_it = keyword.arg == "method" and isinstance(keyword.value, ast.Constant)
    return ast.literal_eval(keyword.value) if is_it else ""


OURS = {(method, rule.shape): rule.path_class for rule in API for method in rule.methods}


def test_table_has_the_methods_and_paths_of_the_sdk() -> None:
    calls = {(method, shape) for method, shape, _ in sdk_calls()}
    wanted = {call for call in calls if call[1].split("/")[2] not in _OTHERS}

    assert len(wanted) > 90
    assert wanted | _OF_OUR_OWN == set(OURS)


def test_workers_paths_are_those_where_the_sdk_names_no_workspace() -> None:
    """An environment's key belongs to one workspace, so the SDK's own functions for workers take no other."""
    calls = {(method, shape): "workspace_id" in text for method, shape, text in sdk_calls()}
    managed = {call for call, path_class in OURS.items() if path_class in (PathClass.STATEFUL, PathClass.WORKER)}

    assert {call for call in managed if not calls[call]} == {
        call for call, path_class in OURS.items() if path_class is PathClass.WORKER
    }
