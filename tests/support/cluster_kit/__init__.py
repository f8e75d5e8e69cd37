"""A cluster under load: real proxies on one PostgreSQL database, sessions with sockets of their own, and the judgement.

The upstream and the sessions are processes of their own (`python tests/support/cluster_kit ROLE`, a job on standard
input), so that neither takes part in what is measured. Each writes down what it saw, and the judgement joins that with
what is in the database:

scale      how much of everything
upstream   the scripted upstream, which limits accounts at random and knows the truth about each
sessions   the load
beat       the script inside of each proxy that measures how late its event loop is
record     what is asked of the database: triggers before the load, rows after it
rig        all of it started and stopped
judgement  what came of it. Pure
command    `scripts/bench --cluster`

Rows that processes hand over as JSON are lists, in the order of the fields of `Sent`, `Asked` and `Late`.
"""

from cluster_kit.judgement import Findings, judge
from cluster_kit.rig import Costs, Run, run
from cluster_kit.scale import FULL, SHORT, Scale

__all__ = ["FULL", "SHORT", "Costs", "Findings", "Run", "Scale", "judge", "run"]
