#!/bin/sh
# mcp 2.3.0: a server that was asked `server/discover` refuses `initialize` from then on, which it takes on a new start.
#
# A client of both protocols asks `server/discover` first, and falls back to `initialize` where no answer comes in time.
# The server is set on protocol 2026-07-28 by the first message, whether its answer was waited for or not: what follows
# is error -32022. The answer to `server/discover` names 2026-07-28 alone, though the same server, asked `initialize`
# first, speaks 2025-11-25. So a server that starts slowly is one that a client of both cannot begin with by its second
# way; it has to ask `server/discover` again.
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0

cat >"$folder/server.py" <<'SERVER'
import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server


async def serve():
    server = Server("example")
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


anyio.run(serve)
SERVER
cat >"$folder/look.py" <<'LOOK'
import json
import subprocess
import sys
from pathlib import Path

SERVER = Path(__file__).with_name("server.py")
PREFIX = "io.modelcontextprotocol"
META = {
    f"{PREFIX}/protocolVersion": "2026-07-28",
    f"{PREFIX}/clientInfo": {"name": "example", "version": "1"},
    f"{PREFIX}/clientCapabilities": {},
}
DISCOVER = {"method": "server/discover", "params": {"_meta": META}}
INITIALIZE = {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "example", "version": "1"},
    },
}


def ask(*messages):
    """What a new server says to these messages."""
    lines = [json.dumps({"jsonrpc": "2.0", "id": id_, **message}) + "\n" for id_, message in enumerate(messages)]
    with subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        said, _ = server.communicate("".join(lines), timeout=120)
    answers = {each["id"]: each for each in map(json.loads, said.splitlines())}
    return [answers[id_] for id_ in range(len(messages))]


discovered, refused = ask(DISCOVER, INITIALIZE)
(initialized,) = ask(INITIALIZE)
seen = (
    discovered["result"]["supportedVersions"],
    refused.get("error", {}).get("code"),
    initialized["result"]["protocolVersion"],
)
print(f"server/discover: {seen[0]}; initialize after it: error {seen[1]}; initialize first: {seen[2]}")
sys.exit(seen != (["2026-07-28"], -32022, "2025-11-25"))
LOOK
"$folder/venv/bin/python" "$folder/look.py"
