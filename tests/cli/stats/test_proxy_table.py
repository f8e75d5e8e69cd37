"""The table of proxies: what a person sees of each, and the same for programs."""

import json

from ccflare_cli.output import render
from ccflare_cli.stats.proxy_table import proxy_table
from ccflare_core.reports.proxies import ProxyStatus
from database_kit import NOW

ONE = ProxyStatus(
    name="alpha:8080/1",
    run="run-1",
    host="alpha",
    pid=7,
    worker=1,
    version="1.0 (aa)",
    mitmproxy="12.3",
    python="3.13",
    address="127.0.0.1:8080",
    state="serving",
    started_at=NOW - 60,
    seen_seconds=4.0,
    ended_at=None,
    open_requests=3,
    requests=12,
    loop_lag_seconds=0.002,
    changes="announced",
    has_upkeep=True,
)
GONE = ONE._replace(
    name="beta:8080",
    worker=None,
    state="crashed",
    version=None,
    seen_seconds=None,
    ended_at=NOW,
    open_requests=None,
    loop_lag_seconds=None,
    has_upkeep=False,
)


def shown(*found: ProxyStatus) -> list[str]:
    return render([proxy_table(found, "Proxies", NOW)], "table").splitlines()


def test_a_row_says_how_a_proxy_is_and_what_nobody_knows_is_a_dash() -> None:
    one, gone = (next(line for line in shown(ONE, GONE) if name in line).split() for name in ("alpha", "beta"))
    assert one[:2] == ["alpha:8080/1*", "serving"]
    assert gone[:3] == ["beta:8080", "crashed", "–"]
    assert {"4.0", "ago", "12"} <= {*one}
    assert "0" not in gone


def test_versions_that_differ_are_told_below() -> None:
    assert not any("different versions" in line for line in shown(ONE, GONE))
    text = " ".join(" ".join(shown(ONE, ONE._replace(name="beta:8080", version="2.0 (bb)"))).split())
    assert "different versions of ccflare: 1.0 (aa) on alpha:8080/1; 2.0 (bb) on beta:8080." in text


def test_programs_get_the_fields_of_the_api() -> None:
    (told,) = json.loads(render([proxy_table([ONE], "Proxies", NOW)], "json"))
    assert [*told] == [*ProxyStatus._fields]
    assert (told["name"], told["started_at"], told["seen_seconds"]) == ("alpha:8080/1", "2027-01-15T07:59:00Z", 4.0)
