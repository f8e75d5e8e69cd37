"""Variables of other programs in the proxy's environment, and where a value came from, with real processes."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest

from fake_upstream import TOKEN, FakeUpstream
from harness import eventually, listening
from rig import Rig

CONDA = "x86_64-conda-linux-gnu"
FOREIGN = {"HOST": CONDA, "CLIENT_ID": "some-other-application", "LOG_LEVEL": "trace", "RETRY_ATTEMPTS": "7"}
OUR_CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"


@pytest.fixture(scope="module")
def bench(api: FakeUpstream) -> Iterator[Rig]:
    with Rig.running(api, environment=FOREIGN, ccflare_retry_attempts=None, ccflare_debuggable=True) as rig:
        yield rig


@pytest.fixture(scope="module")
def api() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


def test_condas_host_does_not_stop_the_start(bench: Rig) -> None:
    assert listening(bench.proxy.pid) == {("127.0.0.1", bench.proxy.port)}
    warnings = [line for line in bench.proxy.log().splitlines() if "other programs use the name too" in line]
    assert len(warnings) == 1
    assert all(name in warnings[0] for name in ("HOST", "CLIENT_ID", "LOG_LEVEL"))
    assert CONDA not in warnings[0]


def test_a_foreign_client_id_does_not_go_out_with_a_refresh(bench: Rig, api: FakeUpstream) -> None:
    access, refresh = api.logins.new_login()
    bench.fresh("a", access_token=access, refresh_token=refresh, expires_at=time.time() + 60)

    (sent, *_) = eventually(lambda: [request for request in api.requests if request.path == TOKEN])

    assert json.loads(sent.body)["client_id"] == OUR_CLIENT_ID


def test_the_doctor_shows_where_a_running_proxys_values_came_from(bench: Rig) -> None:
    with bench.proxy.start_script("doctor.py", "--only", "options", "--only", "proxy", "--format", "json") as doctor:
        said, _ = doctor.communicate(timeout=60)
    found: dict[str, list[str]] = defaultdict(list)
    for each in json.loads(said):
        found[each["check"]].append(each["found"])

    whose = f"the proxy on 127.0.0.1:{bench.proxy.port}: "
    of_proxy = [line for line in found["options.sources"] if line.startswith(whose)]
    command_line = next(line for line in of_proxy if "from command line: " in line)
    assert "ccflare_hold_seconds" in command_line
    assert "listen_port" in command_line
    assert any("from variable RETRY_ATTEMPTS: ccflare_retry_attempts" in line for line in of_proxy)
    assert any("from mitm-config.yaml: " in line and "connection_strategy" in line for line in of_proxy)
    here = [line for line in found["options.sources"] if line.startswith("here, ")]
    assert "here, from variable RETRY_ATTEMPTS: ccflare_retry_attempts" in here
    (told,) = found["options.variables"]
    assert "HOST is neither an IP address nor localhost" in told
