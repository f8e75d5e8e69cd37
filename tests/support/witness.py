"""A mitmproxy script that stands between a client and us, and writes down what the client sends and what it is told."""

import hashlib
import json
from pathlib import Path

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader


class Witness:
    """See the module: one line of JSON an exchange."""

    def load(self, loader: Loader) -> None:
        loader.add_option("witness_file", str, "", "Where it is written.")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = True  # who is told is to be told as it comes, also if it breaks off

    def response(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        body = hashlib.sha256(flow.request.raw_content or b"").hexdigest()
        seen = {
            "method": flow.request.method,
            "path": flow.request.path,
            "body": body,
            "status": flow.response.status_code,
        }
        with Path(ctx.options.witness_file).open("a") as file:
            file.write(json.dumps(seen) + "\n")


addons = [Witness()]
