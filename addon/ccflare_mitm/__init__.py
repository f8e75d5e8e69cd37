"""The mitmproxy wing: everything that has to import mitmproxy.

    host        what is declared to mitmproxy, checked in it and changed of it
    wire        the stream layer: attempts, failover, deadlines
    gate        whether a request may go on, and our own pages
    inspector   what mitmweb and the console show of a flow
    app         the parts of a running proxy, made in order and closed in reverse
    logs        how log records are written

`wire`, `gate` and `inspector` import `host` and the core, and not each other.
"""
