"""The chunks of an answer's body, all that are here at a time as one: a stream's events come some hundred in a read.

Each chunk by itself goes through a dozen functions of h11's, mitmproxy's and ours: some 15 µs, whatever is in it.
"""

import re
from typing import Final

from h11 import Data, EndOfMessage
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,20})\r\n")
_END: Final = b"\r\n"


class JoinedChunks(ChunkedReader):
    """As h11's, which gives one chunk at a time.

    What is read here is only what nobody can read in two ways: a size without any extension, so many bytes, and the
    line end behind them. All else is h11's to read, or to refuse: a chunk that is not whole yet, the last one,
    trailers, extensions, and whatever is wrong.
    """

    def __call__(self, buf: ReceiveBuffer) -> Data | EndOfMessage | None:
        if self._bytes_in_chunk or self._reading_trailer:
            return super().__call__(buf)
        parts, end = whole_chunks(bytes(buf), self._bytes_to_discard)
        if len(parts) < 2:
            return super().__call__(buf)
        buf.maybe_extract_at_most(end)
        self._bytes_to_discard = b""
        return Data(data=b"".join(parts))


def whole_chunks(data: bytes, before: bytes = b"") -> tuple[list[bytes], int]:
    """What is in the whole chunks that the data begins with, and where the last of them ends; `before` comes first."""
    parts: list[bytes] = []
    end = len(before)
    if not data.startswith(before):
        return parts, 0
    while size := _SIZE.match(data, end):
        start = size.end()
        stop = start + int(size[1], 16)
        if stop == start or data[stop : stop + 2] != _END:
            break
        parts.append(data[start:stop])
        end = stop + 2
    return parts, end
