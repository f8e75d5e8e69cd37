"""All that ccflare uses of mitmproxy's inside, and of pyOpenSSL's: a version that has it is a version that runs.

Signatures are of what we override or call with arguments in order; attributes are what we read or set from outside of
mitmproxy's own classes, private or not; words are those that only mitmproxy's messages tell a cause by.
"""

import dis
import inspect
from asyncio import StreamReader, base_events
from collections.abc import Callable, Iterator
from operator import attrgetter
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import h2.connection
import h2.stream
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import addonmanager, certs, command, connection, flow, flowfilter, io, log, master, optmanager, types
from mitmproxy.addons import (
    clientplayback,
    errorcheck,
    export,
    next_layer,
    proxyserver,
    save,
    script,
    termlog,
    tlsconfig,
    view,
)
from mitmproxy.http import Headers
from mitmproxy.net import tls as net_tls
from mitmproxy.net.http import http1, status_codes, validate
from mitmproxy.proxy import commands, context, events, layer, mode_servers, mode_specs, server, server_hooks, tunnel
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers import tls as tls_layers
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream, _base, _events, _hooks, _http1, _http2, _http_h2
from mitmproxy.utils import asyncio_utils, typecheck
from OpenSSL import SSL

SIGNATURES: Final[dict[Callable[..., Any], str]] = {
    HttpLayer.__init__: "self context mode",
    HttpLayer._handle_event: "self event",
    HttpLayer.make_stream: "self stream_id",
    HttpLayer.event_to_child: "self child event",
    HttpLayer.register_connection: "self command",
    HttpStream.__init__: "self context stream_id",
    HttpStream._handle_event: "self event",
    HttpStream.check_body_size: "self request",
    HttpStream.check_invalid: "self request",
    HttpStream.check_killed: "self emit_error_hook",
    HttpStream.handle_connect: "self",
    HttpStream.handle_connect_finish: "self",
    HttpStream.handle_protocol_error: "self event",
    HttpStream.make_server_connection: "self",
    HttpStream.passthrough: "self event",
    HttpStream.send_response: "self already_streamed",
    HttpStream.start_request_stream: "self",
    HttpStream.state_consume_request_body: "self event",
    HttpStream.state_wait_for_request_headers: "self event",
    HttpStream.state_wait_for_response_headers: "self event",
    _http1.make_error_response: "status_code message",
    _http1.Http1Client.read_headers: "self event",
    _http1.Http1Server.read_headers: "self event",
    _http1.Http1Server.send: "self event",
    _http1.Http1Connection.mark_done: "self request response",
    _http1.Http1Connection.read_body: "self event",
    _http2.Http2Connection._handle_event: "self event",
    _http2.Http2Server.__init__: "self context",
    _http2.Http2Server.handle_h2_event: "self event",
    _http2.Http2Server.is_open_for_us: "self stream_id",
    _http2.Http2Server.protocol_error: "self message error_code",
    mode_servers.AsyncioServerInstance.listen: "self host port",
    server.ConnectionHandler.close_connection: "self connection half_close",
    server.ConnectionHandler.handle_client: "self",
    server.ConnectionHandler.server_event: "self event",
    http.GetHttpConnection.__init__: "self address tls via transport_protocol",
    http.GetHttpConnectionCompleted.__init__: "self command reply",
    http.DropStream.__init__: "self stream_id",
    http.SendHttp.__init__: "self event connection",
    _base.ReceiveHttp.__init__: "self event",
    _events.RequestHeaders.__init__: "self stream_id request end_stream replay_flow",
    _events.ResponseHeaders.__init__: "self stream_id response end_stream",
    _events.RequestProtocolError.__init__: "self stream_id message code",
    _events.ResponseProtocolError.__init__: "self stream_id message code",
    commands.SendData.__init__: "self connection data",
    commands.CloseConnection.__init__: "self connection",
    commands.RequestWakeup.__init__: "self delay",
    events.Wakeup.__init__: "self command",
    events.HookCompleted.__init__: "self command reply",
    tls_layers.parse_client_hello: "data",
    addonmanager.safecall: "",
    addonmanager.traverse: "chain",
    command.CommandManager.add: "self path func",
    asyncio_utils.create_task: "coro name keep_ref client",
    tlsconfig.alpn_select_callback: "conn options",
    tlsconfig.TlsConfig.get_cert: "self conn_context",
    tlsconfig.TlsConfig.tls_start_client: "self tls_start",
    net_tls.create_client_proxy_context.__wrapped__: (
        "method min_version max_version cipher_list ecdh_curve chain_file alpn_select_callback request_client_cert "
        "extra_chain_certs dhparams"
    ),
}

ATTRIBUTES: Final[dict[type | ModuleType, str]] = {
    # The wire: streams, their layer, and both ends of a connection.
    HttpLayer: "command_sources connections context mode streams",
    HttpStream: (
        "child_layer client_state context flow request_body_buf server_state stream_id state_consume_request_body "
        "state_consume_response_body state_done state_errored state_stream_response_body"
    ),
    _http1.Http1Connection: "ReceiveEndOfMessage body_reader buf conn done request response state stream_id wait",
    _http1.Http1Server: "buf state stream_id",
    _http2.Http2Server: "conn h2_conn streams",
    _http_h2.BufferedH2Connection: "stream_buffers",
    _http_h2.SendH2Data: "data",
    h2.connection.H2Connection: (
        "close_connection data_to_send highest_inbound_stream_id send_data send_headers streams"
    ),
    h2.stream.H2Stream: "state_machine",
    h2.stream.H2StreamStateMachine: "headers_sent",
    ChunkedReader: "_bytes_in_chunk _bytes_to_discard _reading_trailer",
    ReceiveBuffer: "__bool__ __bytes__ __len__ maybe_extract_at_most",
    http: ("DropStream GetHttpConnection Http1Client Http1Server Http2Server HTTPMode RegisterHttpConnection SendHttp"),
    http.RegisterHttpConnection: "connection err",
    _hooks: ("HttpConnectUpstreamHook HttpErrorHook HttpRequestHeadersHook HttpResponseHeadersHook HttpResponseHook"),
    _events: "RequestData RequestEndOfMessage RequestTrailers ResponseData ResponseEndOfMessage ResponseTrailers",
    _events.ErrorCode: (
        "CANCEL CLIENT_DISCONNECTED CONNECT_FAILED GENERIC_CLIENT_ERROR GENERIC_SERVER_ERROR http_status_code"
    ),
    http.GetHttpConnection: "blocking",
    commands.RequestWakeup: "blocking delay",
    commands.StartHook: "blocking name",
    context.Context: "client layers options server",
    layer.Layer: "_handle_event context",
    layer.NextLayer: "context data_client layer",
    tunnel.TunnelLayer: "child_layer",
    flow.Flow: "_backup comment error intercepted is_replay live marked",
    connection.Client: "alpn error id peername proxy_mode sockname timestamp_end tls_established transport_protocol",
    connection.Server: "address alpn connected error via",
    server_hooks.ServerConnectionHookData: "client server",
    server.ConnectionHandler: "client timeout_watchdog transports",
    server.TimeoutWatchdog: "timeout",
    server.ConnectionIO: "reader writer",
    # The options, the addons and what they keep.
    optmanager.OptManager: "_options deferred update_defer",
    Headers: "_kconv",
    optmanager._Option: "_default current default has_changed typespec value",
    optmanager: "unset",
    types: "CommandTypes Data",
    types.TypeManager: "get typemap",
    log: "ALERT",
    export: "curl_command formats httpie_command",
    typecheck: "check_option_type typespec_to_str",
    master.Master: "_legacy_log_events addons commands event_loop options should_exit",
    log.LegacyLogEvents: "uninstall",
    addonmanager.AddonManager: "chain get lookup remove",
    script.ScriptLoader: "addons",
    script.Script: "fullpath ns reloadtask",
    proxyserver.Proxyserver: "connections servers setup_servers",
    proxyserver.Servers: "__iter__ _instances update",
    mode_servers.ServerInstance: "is_running last_exception listen_addrs mode",
    mode_servers.AsyncioServerInstance: "_servers handle_stream listen",
    mode_specs.ProxyMode: "listen_host listen_port parse transport_protocol",
    next_layer.NextLayer: "next_layer",
    clientplayback.ClientPlayback: "done",
    errorcheck.ErrorCheck: "logger",
    errorcheck.ErrorCheckHandler: "has_errored",
    save.Save: "maybe_rotate_to_new_file stream",
    io.FilteredFlowWriter: "fo",
    view.View: "get_by_id remove sig_store_refresh sig_store_remove",
    flowfilter: "FBod FBodRequest FBodResponse",
    termlog.TermLog: "logger",
    tlsconfig.TlsConfig: "certstore",
    certs.CertStore: "dhparams",
    certs.CertStoreEntry: "cert chain_certs privatekey",
    net_tls: "INSECURE_TLS_MIN_VERSIONS Method Version get_curve starts_like_tls_record",
    http1: "assemble_response connection_close expected_http_body_size",
    status_codes: "RESPONSES",
    validate: "validate_headers",
    # asyncio has no word for a pause in listening, nor for how much a reader takes before its time.
    StreamReader: "_limit",
    base_events.Server: "_serving _start_serving",
    # pyOpenSSL does not tell whether a connection's peer was verified.
    SSL: "_lib _lib.SSL_get_verify_result",
    SSL.Connection: "_ssl",
}

WORDS: Final[dict[type, tuple[str, ...]]] = {
    _http1.Http1Connection: ("Client disconnected",),
    _http1.Http1Server: ("Client closed connection",),
    _http2.Http2Connection: ("peer closed connection", "reset by client"),
    server.ConnectionHandler: ("Connection killed: ",),
    mode_servers.AsyncioServerInstance: (" failed to listen on ",),
    master.Master: ("setup_servers",),  # the name of the task that begins to listen
}
"""What `ingress.tells_of_leaving` and `listener` look for."""


def differences() -> list[str]:
    """The names of all that is not as it was; empty if mitmproxy will do."""
    return [*changed(SIGNATURES), *missing(ATTRIBUTES), *silent(WORDS)]


def changed(signatures: dict[Callable[..., Any], str]) -> Iterator[str]:
    """The functions that take other parameters than these."""
    for function, names in signatures.items():
        if list(inspect.signature(function).parameters) != names.split():
            yield function.__qualname__


def missing(attributes: dict[Any, str]) -> Iterator[str]:
    """The attributes that a class, its instances or a module do not have."""
    for owner, names in attributes.items():
        known = set(_of_instances(owner)) if isinstance(owner, type) else set()
        gone = (name for name in names.split() if name not in known and not _has(owner, name))
        yield from (f"{owner.__name__}.{name}" for name in gone)


def silent(words: dict[type, tuple[str, ...]]) -> Iterator[str]:
    """The classes that do not say these words, in any of their methods."""
    for owner, texts in words.items():
        methods = (each for each in vars(owner).values() if isinstance(each, FunctionType))
        said = [text for method in methods for text in _texts(method.__code__)]
        yield from (f"{owner.__name__}: {text!r}" for text in texts if not any(text in one for one in said))


def _has(owner: Any, name: str) -> bool:
    """Whether there is such an attribute; one of an attribute's own stands behind a dot."""
    try:
        attrgetter(name)(owner)
    except AttributeError:
        return False
    return True


def _of_instances(owner: type) -> Iterator[str]:
    """The attributes that instances get: annotated ones, fields, and what `__init__` sets."""
    for each in owner.__mro__:
        yield from inspect.get_annotations(each)
        if isinstance(making := vars(each).get("__init__"), FunctionType):
            yield from (step.argval for step in dis.get_instructions(making) if step.opname == "STORE_ATTR")


def _texts(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _texts(constant)
