"""Which of mitmproxy's own addons stay: what nobody needs goes, what somebody asked for does not."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.addons import default_addons, dumper, termlog
from mitmproxy.addons.clientplayback import ClientPlayback
from mitmproxy.addons.serverplayback import ServerPlayback
from mitmproxy.exceptions import CommandError
from mitmproxy.http import Headers
from mitmproxy.proxy.server import ConnectionHandler, ConnectionIO
from mitmproxy.test import taddons

from ccflare_core.config.unsafe_options import CHANGED
from ccflare_mitm.host import tuning
from ccflare_mitm.host.tuning import FORBIDDEN, UNNEEDED


@pytest.fixture
async def context() -> AsyncIterator[taddons.context]:
    """A mitmdump that has not started yet."""
    terminal = termlog.TermLog()
    with taddons.context(terminal, *default_addons(), dumper.Dumper(), loadcore=False) as context:
        context.options.update(flow_detail=0)
        yield context
    terminal.uninstall()


def present(context: taddons.context) -> set[str]:
    return set(context.master.addons.lookup)


async def test_what_is_named_exists_in_this_mitmproxy(context: taddons.context) -> None:
    assert {*UNNEEDED, *FORBIDDEN} <= present(context)
    assert {option for options in UNNEEDED.values() for option in options} <= set(context.options.keys())


async def test_what_nobody_asked_for_goes_and_the_rest_stays(context: taddons.context) -> None:
    before = present(context)

    tuning.trim()

    assert present(context) == before - set(UNNEEDED)
    assert {"core", "proxyserver", "nextlayer", "scriptloader", "tlsconfig", "termlog", "save"} <= present(context)


@pytest.mark.parametrize(
    ("name", "value", "addon"),
    [
        ("anticache", True, "anticache"),
        ("modify_headers", ["/~q/x/y"], "modifyheaders"),
        ("map_local", ["|x|/tmp"], "maplocal"),
        ("stickycookie", ".*", "stickycookie"),
        ("flow_detail", 1, "dumper"),
        ("dumper_filter", "~s", "dumper"),
    ],
)
async def test_what_somebody_has_set_stays(context: taddons.context, name: str, value: object, addon: str) -> None:
    context.options.update(**{name: value})

    tuning.trim()

    assert addon in present(context)
    assert "disableh2c" not in present(context)


def test_threads_hand_the_interpreter_on_often() -> None:
    before = sys.getswitchinterval()
    tuning.share_often()
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    sys.setswitchinterval(before)


class Handler:
    """What of a client's connection is used to begin with it."""

    def __init__(self) -> None:
        self.client, self.reader = "client", asyncio.StreamReader(limit=100)
        self.transports = {self.client: ConnectionIO(reader=self.reader)}


async def test_large_reads_give_all_that_a_client_has_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(handler: Any) -> list[bytes]:
        return [await handler.reader.read(10) for _ in range(3)]

    monkeypatch.setattr(ConnectionHandler, "handle_client", read)
    tuning.read_largely()
    handler: Any = Handler()
    handler.reader.feed_data(b"a" * 1000)
    asyncio.get_running_loop().call_later(0.01, handler.reader.feed_data, b"b" * 70_000)
    asyncio.get_running_loop().call_later(0.02, handler.reader.feed_eof)

    handle: Any = ConnectionHandler.handle_client
    assert await handle(handler) == [b"a" * 1000, b"b" * 70_000, b""]


def test_collections_leave_out_what_was_there_before() -> None:
    class Kept:
        pass

    kept = Kept()
    try:
        tuning.spare_what_stays()
        since = Kept()
        left = gc.get_objects()
        assert not any(each is kept for each in left)
        assert any(each is since for each in left)
    finally:
        gc.unfreeze()


async def test_trimming_twice_does_nothing_more(context: taddons.context) -> None:
    tuning.trim()
    left = present(context)

    tuning.trim()

    assert present(context) == left


async def test_an_option_that_does_not_exist_was_not_asked_for(context: taddons.context) -> None:
    assert not tuning.is_wanted("no_such_option")


async def test_replays_are_impossible_afterwards(context: taddons.context) -> None:
    playbacks = [context.master.addons.get(name) for name in FORBIDDEN]
    assert {type(addon) for addon in playbacks} == {ClientPlayback, ServerPlayback}

    tries: list[None] = []

    await tuning.forbid_replay(lambda: tries.append(None))
    await tuning.forbid_replay(lambda: tries.append(None))

    for command in ("replay.client", "replay.server", "replay.server.add"):
        with pytest.raises(CommandError, match="does not replay"):
            context.master.commands.call(command, [])
    with pytest.raises(CommandError, match="does not replay"):
        context.master.commands.call_strings("replay.server.file", ["x"])
    assert len(tries) == 4
    assert not {*FORBIDDEN} & present(context)
    assert not [addon for addon in playbacks if addon in context.master.addons.chain]


async def test_every_option_of_the_server_replay_is_known_with_its_default(context: taddons.context) -> None:
    known = {name: default for name, default, _ in CHANGED}
    defaults = {name: option.default for name, option in context.options._options.items()}
    own = {name: value for name, value in defaults.items() if name.startswith("server_replay")}
    assert known == {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}


FIELDS = st.lists(
    st.tuples(st.sampled_from([b"A", b"a", b"Content-Type", b"x-\xff"]), st.binary(max_size=5)), max_size=6
)
NAMES = st.sampled_from(["a", "A", b"a", "content-type", "x-\udcff", b"X-\xff", "missing"])


def check_look_ups(headers: Headers, name: str | bytes) -> None:
    own = headers[name] if headers.get_all(name) else None
    assert tuning.get_header(headers, name) == own
    assert tuning.get_header(headers, name, "default") == ("default" if own is None else own)
    assert tuning.has_header(headers, name) == bool(headers.get_all(name))
    assert tuning.get_all_headers(headers, name) == headers.get_all(name)
    if own is None:
        with pytest.raises(KeyError):
            tuning.getitem(headers, name)
    else:
        assert tuning.getitem(headers, name) == own


@given(fields=FIELDS, later=FIELDS, name=NAMES)
def test_quick_look_ups_answer_as_mitmproxys_own_also_after_a_change(
    fields: list[tuple[bytes, bytes]], later: list[tuple[bytes, bytes]], name: str | bytes
) -> None:
    headers = Headers(fields)
    check_look_ups(headers, name)
    headers.fields = tuple(later)
    check_look_ups(headers, name)
    headers["a"] = "new"
    check_look_ups(headers, name)
    assert headers == Headers(headers.fields)
    assert headers.copy().fields == headers.fields


@given(fields=FIELDS)
def test_quickly_made_headers_are_as_mitmproxys_own(fields: list[tuple[bytes, bytes]]) -> None:
    quick = Headers.__new__(Headers)
    tuning.make_headers(quick, [list(field) for field in fields])  # type: ignore[misc]
    assert quick.fields == Headers(fields).fields
    assert tuning.bytes_of(quick) == bytes(Headers(fields))

    tuning.make_headers(quick, fields, content_type="x")
    assert quick.fields == Headers(fields, content_type="x").fields


@pytest.mark.parametrize("fields", [[(b"a", "b")], [("a", b"b")], [(b"a", None)]])
def test_quickly_made_headers_are_of_bytes_too(fields: Any) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        tuning.make_headers(Headers.__new__(Headers), fields)


async def test_options_that_are_read_quickly_have_the_values_that_mitmproxy_reads(context: taddons.context) -> None:
    context.options.update(anticache=True, listen_port=8081, stickycookie=".*", modify_headers=["/~q/x/y"])
    for option in context.options._options.values():
        assert tuning.current_value(option) == option.current()
    tuning.current_value(context.options._options["modify_headers"]).append("not kept")
    assert context.options.modify_headers == ["/~q/x/y"]
