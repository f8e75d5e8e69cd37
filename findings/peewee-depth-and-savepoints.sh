#!/bin/sh
# peewee 4.5.3: transaction_depth() does not count savepoints, so it cannot tell an inner atomic() from the outer one.
#
# atomic() is a transaction on the outside and a savepoint within another one. transaction_depth() is 1 in both, however
# deep they lie in each other; with transaction() in the place of atomic() it is 1 and then 2. in_transaction() says no
# more. Who wants to do something once a whole transaction is over has to count the blocks of atomic() by themselves.
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peewee==4.5.3

cat >"$folder/look.py" <<'LOOK'
import sys

import peewee

database = peewee.SqliteDatabase(":memory:")


def depths(block):
    """The depth before, in, and within these blocks, three of them in each other."""
    found = [database.transaction_depth()]
    with block():
        found.append(database.transaction_depth())
        with block():
            found.append(database.transaction_depth())
            with block():
                found.append(database.transaction_depth())
    return found


by_atomic, by_transaction = depths(database.atomic), depths(database.transaction)
print(f"peewee {peewee.__version__}: atomic() {by_atomic}, transaction() {by_transaction}")
sys.exit((by_atomic, by_transaction) != ([0, 1, 1, 1], [0, 1, 2, 3]))
LOOK
"$folder/venv/bin/python" "$folder/look.py"
