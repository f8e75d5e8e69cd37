#!/bin/sh
# zstandard 0.25.0: decompress() gives the first frame of its input and says nothing of what follows.
#
# RFC 8878, 3: a stream is one or more frames, and what they hold is put together (`cat a.zst b.zst` is valid).
# backports.zstd 1.7.0, which is Python 3.14's compression.zstd, gives all frames, and an error for other bytes behind.
# With allow_extra_data=False zstandard raises an error for both. Exits with 0 while this is so.
# Needs Python 3.12; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0 backports.zstd==1.7.0

cat >"$folder/look.py" <<'LOOK'
import sys
import zstandard
from backports import zstd


def outcome(decompress, data):
    try:
        return decompress(data)
    except Exception as error:
        return type(error).__name__


def strict(data):
    return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)


first, second = zstandard.compress(b"first "), zstandard.compress(b"second")
seen = {
    name: (outcome(decompress, first + second), outcome(decompress, first + b"other"))
    for name, decompress in {"zstandard": zstandard.decompress, "strict": strict, "backports.zstd": zstd.decompress}.items()
}
for name, (two_frames, other_bytes) in seen.items():
    print(f"{name}: two frames give {two_frames!r}, a frame and other bytes {other_bytes!r}")
sys.exit(
    seen
    != {
        "zstandard": (b"first ", b"first "),
        "strict": ("ZstdError", "ZstdError"),
        "backports.zstd": (b"first second", "ZstdError"),
    }
)
LOOK
"$folder/venv/bin/python" "$folder/look.py"
