#!/bin/sh
# peewee 4.5.3: a fraction on the right side of an integer field becomes an integer, and nothing says so.
#
# The value is converted as if it were to be stored in the field, so `n * 0.5` multiplies by 0 and `n < 8.5` compares
# with 8. On the left side, or with Value(0.5, converter=False), it stays as it is. The same for IntegerField.
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


class Row(peewee.Model):
    n = peewee.BigIntegerField()

    class Meta:
        database = database


database.create_tables([Row])
Row.create(n=8)


def first(expression):
    return Row.select(expression).tuples()[0][0]


seen = {
    "n * 0.5": first(Row.n * 0.5),
    "0.5 * n": first(0.5 * Row.n),
    "n * Value(0.5, converter=False)": first(Row.n * peewee.Value(0.5, converter=False)),
    "rows with n < 8.5": Row.select().where(Row.n < 8.5).count(),
}
for name, value in seen.items():
    print(f"n is 8: {name} gives {value}")
sys.exit(list(seen.values()) != [0, 4, 4, 0])
LOOK
"$folder/venv/bin/python" "$folder/look.py"
