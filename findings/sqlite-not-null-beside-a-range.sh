#!/bin/sh
# SQLite 3.54.1 (by apsw 3.54.1.0): IS NOT NULL beside a range of time reads all of a partial index, until ANALYZE.
#
# With an index on (client, at) WHERE client IS NOT NULL, and one on (at), the last 1,000 of 200,000 rows grouped by client
# are found by (client>?): IS NOT NULL counts as a bound, so the whole index is walked and `at >= ?` looked at for each
# entry. With COALESCE(client, '') <> '' in its place, which no index can serve, the same rows come by (at>?), in a small
# part of the steps. After ANALYZE the first form skips through the index, (ANY(client) AND at>?).
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check apsw==3.54.1.0

cat >"$folder/look.py" <<'LOOK'
import sys

import apsw

ROWS, SINCE = 200_000, 199_000
database = apsw.Connection(":memory:")
database.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, client TEXT, tokens INTEGER)")
database.execute("CREATE INDEX by_time ON requests (at)")
database.execute("CREATE INDEX by_client ON requests (client, at) WHERE client IS NOT NULL")
rows = ((number, f"client-{number % 3}", number % 100) for number in range(ROWS))
with database:
    database.executemany("INSERT INTO requests (at, client, tokens) VALUES (?, ?, ?)", rows)


def asked(condition):
    """The plan, how many steps of SQLite's machine (in thousands) it took, and the rows."""
    sql = f"SELECT client, SUM(tokens) FROM requests WHERE {condition} AND at >= ? GROUP BY client ORDER BY client"
    plan = next(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", (SINCE,)))
    steps = [0]

    def step():
        steps[0] += 1
        return False

    database.set_progress_handler(step, 1000)
    found = database.execute(sql, (SINCE,)).fetchall()
    database.set_progress_handler(None)
    return plan.partition("INDEX ")[2], steps[0], found


PLAIN, HIDDEN = "client IS NOT NULL", "COALESCE(client, '') <> ''"
before, hidden = asked(PLAIN), asked(HIDDEN)
database.execute("ANALYZE")
after = asked(PLAIN)
print(f"SQLite {apsw.sqlite_lib_version()}")
for told, (plan, steps, _) in (("IS NOT NULL", before), ("COALESCE", hidden), ("IS NOT NULL after ANALYZE", after)):
    print(f"{told}: {plan}, {steps} thousand steps")
is_so = (
    before[0] == "by_client (client>?)"
    and hidden[0] == "by_time (at>?)"
    and after[0] == "by_client (ANY(client) AND at>?)"
    and before[2] == hidden[2] == after[2]
    and before[1] > 20 * hidden[1]
    and before[1] > 20 * after[1]
)
sys.exit(not is_so)
LOOK
"$folder/venv/bin/python" "$folder/look.py"
