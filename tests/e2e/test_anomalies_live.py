"""A running proxy tells of what is unusual, in the log, in the audit log and to the doctor."""

import json
import time
from contextlib import closing
from pathlib import Path

from ccflare_core.exchange.records import ExchangeFinished, ExchangeStarted
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from fake_upstream import FakeUpstream
from harness import Proxy

DAY = 86_400.0
SENTENCE = "client key office: requests by a new program: curl, not seen in the last 28 days"


def add_requests(proxy: Proxy) -> None:
    """Nine days on which the key was used by a library, and a minute ago by a person."""
    with closing(Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))) as store:
        key = store.clients.by_name("office")
        uses = [*((day * DAY, "Anthropic/Python 0.97.0") for day in range(9, 0, -1)), (60.0, "curl/8.14.1")]
        for number, (ago, program) in enumerate(uses):
            how = ("POST", "/v1/messages", "127.0.0.1", program, None, "base", "past", "claude-opus-4-8")
            started = ExchangeStarted(f"past-{number}", round((time.time() - ago) * 1000), *how, key.id, key.name)
            store.write([started, ExchangeFinished(started.id, "ok", True, 200)])


def test_new_program_of_a_key_is_told_in_log_audit_log_and_doctor(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(upstream, folder=tmp_path)
    proxy.add_client_key("office")
    add_requests(proxy)
    with proxy:
        proxy.wait_for_log(f"unusual: {SENTENCE}")
        shown = proxy.run_script("audit.py", "show", "--action", "anomaly", "--format", "json")
        found = proxy.run_script("doctor.py", "--only", "activity", "--quiet", "--format", "json")

    [row] = json.loads(shown)
    assert (row["action"], row["target"]) == ("anomaly.program", "office")
    assert row["detail"] == {"what": SENTENCE.removeprefix("client key office: ")}
    assert SENTENCE in [result["found"] for result in json.loads(found)]
