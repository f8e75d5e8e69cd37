"""The mitmproxy wing: everything that has to import mitmproxy.

    host        what is declared to mitmproxy, checked in it and changed of it
    pages       our own pages: dashboard, login, API, metrics
    wire        the stream layer: attempts, failover, deadlines
    gate        whether a request may go on
    inspector   what mitmweb and the console show of a flow
    builders    the parts of a running proxy, each with what stands below it
    app         opens and closes them in order, and takes up new settings
    logs        how log records are written

`wire`, `gate` and `inspector` import `host`, `pages` and the core, and not each other.
"""
