"""What an account of the simulated upstream has: files, skills, batches, containers, which it alone knows."""

import itertools
import json
import re
from typing import Any

from fake_upstream import Answer, Request
from fake_upstream.errors import error
from fake_upstream.messages import event, json_answer, message_object, new_id, sse_answer, usage

_PLACES = {"files": "file", "skills": "skill", "messages/batches": "msgbatch"}
_PATH = re.compile(r"/v1/(files|skills|messages/batches)(?:/([^/]+)(/.*)?)?")
_NAMED = re.compile(rb'"(?:file_id|skill_id|container)": ?"([^"]*)"')
_NUMBERS = itertools.count(1)
"""No two things have the same id, whichever account's they are."""
_TYPES = {"files": "file", "skills": "skill", "messages/batches": "message_batch"}


class Workspace:
    """Answers for one account, as `rig.script(name, always=workspace.answer)`; ids say whose they are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.things: dict[str, str] = {}
        """The place of each thing by its id."""
        self.content = b'"content"'
        """What every file holds, as JSON."""

    def make(self, place: str) -> str:
        """Something new; its id."""
        id = f"{_PLACES.get(place, place)}_{self.name}{next(_NUMBERS)}"
        self.things[id] = place
        return id

    def answer(self, request: Request) -> Answer | None:
        """As the API would; None: the usual answer."""
        if found := _PATH.fullmatch(request.path):
            return self._resource(request.method, found[1], found[2], found[3] or "")
        if request.path == "/v1/messages":
            return self._message(request)
        return None

    def _resource(self, method: str, place: str, id: str | None, rest: str) -> Answer:
        if id is None:
            if method == "POST":
                return json_answer(self._shown(self.make(place)))
            data = [self._shown(each) for each, where in self.things.items() if where == place]
            return json_answer({"data": data, "has_more": False})
        if id not in self.things:
            return error(404, "not_found_error", f"{self.name} has no {id}")
        if method == "DELETE" and not rest:
            return json_answer({"type": f"{_TYPES[place]}_deleted", "id": self.things.pop(id) and id})
        if rest == "/content":
            return json_answer(json.loads(self.content))
        if rest == "/results":
            return self._results()
        return json_answer(self._shown(id))

    def _shown(self, id: str) -> dict[str, Any]:
        return {"type": _TYPES[self.things[id]], "id": id, "created_at": "2026-11-30T00:00:00Z"}

    def _results(self) -> Answer:
        message = self._made("container")
        line = json.dumps({"custom_id": "1", "result": {"type": "succeeded", "message": message}})
        return Answer(200, ((b"content-type", b"application/x-jsonl"),), (line.encode() + b"\n",))

    def _message(self, request: Request) -> Answer | None:
        """A message that names what is not here is refused; one that is asked for "make it" makes a container.

        In that a program writes a file; and the message is a refusal with a credit token.
        """
        names = {each.decode() for each in _NAMED.findall(request.body)} - {"file_in_a_tool"}
        if missing := sorted(names - self.things.keys()):
            return error(404, "not_found_error", f"{self.name} has no {missing[0]}")
        if b"make it" not in request.body:
            return None
        message = self._made("container")
        return _streamed(message) if b'"stream": true' in request.body else json_answer(message)

    def _made(self, place: str) -> dict[str, Any]:
        output = {"type": "bash_code_execution_output", "file_id": self.make("files")}
        result = {"type": "bash_code_execution_result", "content": [output], "stdout": "", "stderr": ""}
        block = {"type": "bash_code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": result}
        message = dict(message_object("claude-opus-4-8", [block], "refusal", usage()))
        token = f"credit-of-{self.name}-{new_id('t')}"
        return {
            **message,
            "container": {"id": self.make(place), "expires_at": "2026-12-30T00:00:00Z"},
            "stop_details": {"type": "refusal", "category": None, "fallback_credit_token": token},
        }


def _streamed(message: dict[str, Any]) -> Answer:
    """The same as a stream, where each id stands in the event that the API puts it into."""
    late = {name: message.pop(name) for name in ("container", "stop_details", "stop_reason")}
    (block,) = message.pop("content")
    return sse_answer(
        event({"type": "message_start", "message": {**message, "content": []}}),
        event({"type": "content_block_start", "index": 0, "content_block": block}),
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_delta", "delta": late, "usage": message["usage"]}),
        event({"type": "message_stop"}),
    )
