"""mitmproxy's options and the variables that are unsafe here, each with the reason. Pure.

The proxy does not start with any of it, and `doctor.py` looks for it beforehand.
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

VARIABLES = ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE")
"""They make the keys of every connection readable in a file."""


def unsafe(option: Callable[[str], object]) -> list[tuple[str, str]]:
    """Each option that opens a hole as it is set, and why; `option` gives an option's value, None if nobody said."""
    found = [(name, why) for name, why in OPTIONS if option(name)]
    return found + [(name, why) for name, default, why in CHANGED if _is_changed(option(name), default)]


def _is_changed(value: object, default: object) -> bool:
    return value is not None and (tuple(value) if isinstance(value, list) else value) != default
