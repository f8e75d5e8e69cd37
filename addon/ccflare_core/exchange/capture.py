"""What passes by on its way to the client: kept within a bound, and read for its usage at the end."""

from ccflare_core.anthropic.usage import Reading, UsageReader
from ccflare_core.exchange.memory import Room


class Capture:
    """Collects an answer's body up to `limit` bytes, as far as there is room; its usage is read from all of it.

    `add` is called for every chunk of every stream, so all it does is append. The body is parsed once, at the
    end. Only once no more is kept is each chunk parsed as it comes.
    """

    def __init__(self, limit: int, room: Room | None = None) -> None:
        self.size = 0
        """Bytes that passed."""
        self.content_type = ""
        self.content_encoding = ""
        self._limit = limit
        self._room = room or Room()
        self._taken = 0
        self._chunks: list[bytes] = []
        self._reader: UsageReader | None = None

    def start(self, content_type: str, content_encoding: str) -> None:
        """Say what kind of body comes."""
        self.content_type, self.content_encoding = content_type, content_encoding

    def add(self, chunk: bytes) -> None:
        """Note one chunk. Never raises."""
        self.size += len(chunk)
        if self._reader is not None:
            self._reader.feed(chunk)
        elif self.size > self._limit:
            self._keep_no_more(chunk)
            self._chunks.append(chunk[: max(0, len(chunk) - (self.size - self._limit))])
        elif self._room.take(len(chunk)):
            self._taken += len(chunk)
            self._chunks.append(chunk)
        else:
            self._keep_no_more(chunk)

    def _keep_no_more(self, chunk: bytes) -> None:
        self._reader = UsageReader(self.content_type, self.content_encoding)
        self._reader.feed(self.body)
        self._reader.feed(chunk)

    def let_go(self) -> None:
        """Give the room back: the exchange is over, and its body on the way to the database."""
        self._room.give_back(self._taken)
        self._taken = 0

    @property
    def truncated(self) -> bool:
        """Whether more passed than was kept."""
        return self._reader is not None

    @property
    def body(self) -> bytes:
        """The kept bytes, as they were on the wire (still compressed if they came so)."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""

    def read(self, *, cut: bool) -> Reading:
        """What the whole body says of usage; `cut` means that the upstream did not get to end it."""
        reader = self._reader
        if reader is None:
            reader = UsageReader(self.content_type, self.content_encoding)
            reader.feed(self.body)
        return reader.close(cut=cut)
