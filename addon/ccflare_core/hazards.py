"""What of mitmproxy's options, and of the environment, opens a hole as soon as it is set. Pure.

The proxy does not start with any of it, and `doctor.py` looks for it beforehand.
"""

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

VARIABLES = ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE")
"""They make the keys of every connection readable in a file."""
