"""The Python SDK at work, run by the interpreter that has it: each line asks for something, and gets a line back.

A line is JSON: `what`, a function from here, and `environment`, where the SDK itself finds its address and credential.
"""

import json
import os
import sys

import anthropic

MODEL = "claude-haiku-4-5"
ASKED = [{"role": "user", "content": "Say hello."}]


def calls(client: anthropic.Anthropic) -> dict[str, object]:
    """One of each kind."""
    whole = client.messages.create(model=MODEL, max_tokens=64, messages=ASKED)
    with client.messages.stream(model=MODEL, max_tokens=64, messages=ASKED) as stream:
        pieces = list(stream.text_stream)
    counted = client.messages.count_tokens(model=MODEL, messages=ASKED)
    return {
        "version": anthropic.__version__,
        "create": whole.content[0].text,
        "request_id": bool(whole._request_id),
        "stream": pieces,
        "count_tokens": counted.input_tokens,
        "models": [model.id for model in client.models.list()],
    }


def refused(client: anthropic.Anthropic) -> dict[str, object]:
    """A call that is not let in."""
    try:
        client.messages.create(model=MODEL, max_tokens=64, messages=ASKED)
    except anthropic.APIStatusError as error:
        return {"error": type(error).__name__, "status": error.status_code}
    return {}


def main() -> None:
    """Work until there are no more lines."""
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.clear()
        os.environ.update(asked["environment"])
        with anthropic.Anthropic(timeout=60) as client:
            print(json.dumps({"calls": calls, "refused": refused}[asked["what"]](client)), flush=True)


if __name__ == "__main__":
    main()
