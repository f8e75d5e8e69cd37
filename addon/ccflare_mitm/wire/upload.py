"""The body of a large file on its way up: what is held of it until there is an upstream, and when no more is read."""

from collections.abc import Callable

HELD_BYTES = 256 * 1024
"""How much is held before the client's connection is not read any more; what was read already comes all the same."""


class Upload:
    """One request's. `pause` tells whether the client's connection is to be left unread; `limit` is in bytes."""

    def __init__(self, limit: int, pause: Callable[[bool], None]) -> None:
        self.limit = limit
        self.size = 0
        """What has come of it."""
        self.is_open = True
        """Whether more is to come."""
        self._pause = pause
        self._is_paused = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._has_passed_on = False

    def __repr__(self) -> str:
        return f"Upload(size={self.size}, held={self._held_bytes}, open={self.is_open})"

    def take(self, data: bytes) -> bool:
        """Count this part; whether the body is within its limit."""
        self.size += len(data)
        return self.size <= self.limit

    def hold(self, data: bytes) -> None:
        """Keep this part until there is somebody to send it to."""
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= HELD_BYTES and not self._is_paused:
            self._is_paused = True
            self._pause(True)

    @property
    def held(self) -> bytes:
        """All that has come, as long as `is_whole`."""
        return b"".join(self._held)

    @property
    def is_whole(self) -> bool:
        """Whether it is held from its beginning on, so that it can be sent once more."""
        return not self._has_passed_on

    def pass_on(self) -> None:
        """A part goes on that is not held: from now on it cannot be sent again."""
        self._has_passed_on = True
        self._held.clear()
        self._held_bytes = 0

    def flow(self) -> None:
        """Let the client send on."""
        if self._is_paused:
            self._is_paused = False
            self._pause(False)
