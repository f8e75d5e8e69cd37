"""A short form of `scripts/bench --cluster`: two proxies on one database under load, while accounts reach limits."""

from pathlib import Path

import pytest

from ccflare_core.config.location import Server
from cluster_kit import SHORT, run

pytestmark = pytest.mark.postgres


def test_proxies_under_load_heed_each_others_limits_and_lose_nothing(server: Server, tmp_path: Path) -> None:
    """Of 60 s with 200 sessions, on two proxies, whose accounts reach limits at random and whose tokens end.

    No request goes to an account of which the proxy could have known for 200 ms, in which it was not late itself, that
    it rests: how that is measured says `cluster_kit.judge`. No refresh token is spent twice. Each request has one row
    with one outcome, which is the one that its client has seen, and all its attempts. A session that comes to another
    proxy finds its account there, or a reason why not is recorded.
    """
    found = run(SHORT, server, tmp_path).findings

    assert found.zeros == dict.fromkeys(found.zeros, 0), (found.stale, found.strayed)
    assert found.cooldowns > 0
    assert found.refreshes >= SHORT.accounts
    assert found.tried[429] > 0
    assert found.kept > 0
    assert found.gini_accounts < 0.5
    assert found.gini_proxies < 0.1
