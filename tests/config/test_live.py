"""The settings as they are now: all who were given a way to them see a change."""

import pytest

from ccflare_core.config.live import LiveSettings
from ccflare_core.config.settings import Settings

ENVIRON = {"XDG_DATA_HOME": "/data"}


def built(**options: object) -> Settings:
    return Settings.build({f"ccflare_{name}": value for name, value in options.items()}, ENVIRON)


def test_change_reaches_callers_readers_and_listeners() -> None:
    live, told = LiveSettings(built(hold_seconds=1)), list[Settings]()
    hold = live.reader("hold_seconds")
    live.listen(told.append)
    assert (live().hold_seconds, hold(), told) == (1, 1, [])

    live.change(after := built(hold_seconds=2))

    assert (live().hold_seconds, hold(), told) == (2, 2, [after])


def test_reader_of_no_setting_is_an_error_where_it_is_made() -> None:
    with pytest.raises(AttributeError, match="hold_minutes"):
        LiveSettings(built()).reader("hold_minutes")
