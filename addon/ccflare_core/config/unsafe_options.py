"""mitmproxy's options and the variables that are unsafe here, and all others, each with the reason. Pure.

The proxy does not start with anything unsafe, nor with an option of mitmproxy that is not in here at all: nobody has
looked at what it does. `doctor.py` looks for the unsafe ones beforehand.
"""

from collections.abc import Callable

OPTIONS = (
    ("proxy_debug", "it would write the accounts' credentials into the log; leave it off"),
    (
        "ssl_insecure",
        "it would take anyone for the upstream and give them the accounts' credentials; for a certificate authority of "
        "your own set ssl_verify_upstream_trusted_ca",
    ),
    (
        "keep_host_header",
        "it would let clients say which name the upstream's certificate has to carry; remove it, requests say the Host "
        "of ccflare_upstream",
    ),
    ("ignore_hosts", "it would lead connections past the gate; remove it"),
    ("allow_hosts", "it would lead connections past the gate; remove it, other hosts' TLS is not opened anyway"),
    ("tcp_hosts", "it would lead connections past the gate; remove it"),
    ("udp_hosts", "it would lead connections past the gate; remove it"),
    ("map_remote", "it would send requests, and the clients' own credentials, elsewhere; set ccflare_upstream"),
    ("stickyauth", "it would send one client's credential with the requests of another; remove it"),
    ("stickycookie", "it would send one client's cookies with the requests of another; remove it"),
    ("emudhra", "it would sign what clients see with an authority whose key is public; leave it off"),
    ("emudhra_old", "it would sign what clients see with an authority whose key is public; leave it off"),
    ("proxyauth", "it takes the header that clients send their key in; remove it"),
    ("map_local", "it would answer requests in the place of the gate; remove it"),
    ("anticache", "it would change what clients send, which goes upstream as it came; leave it off"),
    ("anticomp", "it would change what clients send, which goes upstream as it came; leave it off"),
    ("modify_body", "it would change what clients and the upstream send, which goes on as it came; remove it"),
    ("modify_headers", "it would change what clients and the upstream send, which goes on as it came; remove it"),
    ("web_debug", "it would start the proxy anew whenever one of its files changes; leave it off"),
)
"""Option, and why it is refused once it is set at all."""

_REPLAY = "it goes with server_replay, which would answer requests in the place of the gate; remove it"
CHANGED: tuple[tuple[str, object, str], ...] = (
    ("server_replay", (), "it would answer requests in the place of the gate; remove it"),
    ("server_replay_extra", "forward", _REPLAY),
    ("server_replay_ignore_content", False, _REPLAY),
    ("server_replay_ignore_host", False, _REPLAY),
    ("server_replay_ignore_params", (), _REPLAY),
    ("server_replay_ignore_payload_params", (), _REPLAY),
    ("server_replay_ignore_port", False, _REPLAY),
    ("server_replay_kill_extra", False, _REPLAY),
    ("server_replay_nopop", False, _REPLAY),
    ("server_replay_refresh", True, _REPLAY),
    ("server_replay_reuse", False, _REPLAY),
    ("server_replay_use_headers", (), _REPLAY),
)
"""Option, what mitmproxy sets it to, and why it is refused once it is something else."""

HARMLESS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "where it listens: the addresses are checked with what they are open to",
        ("mode", "server", "listen_host", "listen_port", "web_host", "web_port", "web_password"),
    ),
    (
        "TLS and its files: versions, ciphers and who can read or change the files are checked",
        (
            *("certs", "cert_passphrase", "client_certs", "request_client_cert", "confdir", "key_size"),
            *("ciphers_client", "ciphers_server", "tls_version_client_min", "tls_version_client_max"),
            *("tls_version_server_min", "tls_version_server_max", "tls_ecdh_curve_client", "tls_ecdh_curve_server"),
            *("ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir", "validate_inbound_headers"),
            *("upstream_cert", "add_upstream_certs_to_client_chain", "strip_ech"),
        ),
    ),
    (
        "how connections are made: whom one leads to is checked before anything is sent",
        (
            *("connection_strategy", "connect_addr", "upstream_auth", "http_connect_send_host_header", "tcp_timeout"),
            *("dns_name_servers", "dns_use_hosts_file", "export_preserve_original_ip"),
        ),
    ),
    (
        "protocols: the gate and the wire meet all of them, and ccflare opens no UDP",
        ("http2", "http2_ping_keepalive", "http3", "rawtcp", "websocket"),
    ),
    (
        "what is held, refused or kept of a message: the wire streams by itself",
        (
            *("body_size_limit", "stream_large_bodies", "store_streamed_bodies", "normalize_outbound_headers"),
            *("keep_alt_svc_header", "block_global", "block_private", "block_list", "intercept", "intercept_active"),
        ),
    ),
    (
        "flows from a file, and replays, which ccflare refuses one by one",
        ("rfile", "readfile_filter", "client_replay", "client_replay_concurrency", "keepserving"),
    ),
    (
        "dumps: credentials are blanked in them, and only their owner may read them",
        ("save_stream_file", "save_stream_filter", "hardump"),
    ),
    (
        "the addons to load, which the start warns of, and mitmproxy's own pages and notes",
        ("scripts", "onboarding", "onboarding_host", "command_history"),
    ),
    (
        "only what a person sees",
        (
            *("flow_detail", "dumper_filter", "dumper_default_contentview", "content_view_lines_cutoff", "showhost"),
            *("show_ignored_hosts", "protobuf_definitions", "termlog_verbosity", "view_filter", "view_order"),
            *("view_order_reversed", "console_default_contentview", "console_eventlog_verbosity"),
            *("console_flowlist_layout", "console_focus_follow", "console_layout", "console_layout_headers"),
            *("console_mouse", "console_palette", "console_palette_transparent", "console_quickhelp_visible"),
            *("console_strip_trailing_newlines", "web_columns", "web_open_browser", "web_static_viewer", "web_theme"),
        ),
    ),
)
"""Why options need no rule of their own, and which: all others that mitmproxy 12.2 and 12.3 have."""

SINCE_12_3 = frozenset({"emudhra", "emudhra_old", "web_theme"})
"""Of all of them, those that mitmproxy 12.2 does not have."""

KNOWN = frozenset(
    [name for name, _ in OPTIONS] + [name for name, *_ in CHANGED] + [name for _, names in HARMLESS for name in names]
)
"""mitmproxy's options that somebody has looked at."""

VARIABLES = ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE")
"""They make the keys of every connection readable in a file."""


def unsafe(option: Callable[[str], object]) -> list[tuple[str, str]]:
    """Each option that opens a hole as it is set, and why; `option` gives an option's value, None if nobody said."""
    found = [(name, why) for name, why in OPTIONS if option(name)]
    return found + [(name, why) for name, default, why in CHANGED if _is_changed(option(name), default)]


def _is_changed(value: object, default: object) -> bool:
    return value is not None and (tuple(value) if isinstance(value, list) else value) != default
