"""A scriptable stand-in for api.anthropic.com on 127.0.0.1: HTTP/1.1 and HTTP/2, plain or TLS.

In a test it runs in a thread of its own:

    with FakeUpstream() as upstream:
        upstream.always(limited_5h(reset), credential="sk-ant-oat01-a")
        …
        first, second = upstream.wait_for(2)
        assert (first.credential, second.credential) == ("sk-ant-oat01-a", "sk-ant-oat01-b")

For the demo and the benchmark it is a process that prints its port: `python tests/support/fake_upstream --port 0`.

What was asked is in request; what is answered in answer, with ready-made ones in limit_headers, messages, errors
and faults, and the OAuth side in logins; who gets which answer in script; how one is played in exchange, http1 and
http2; then certificates, the server, and the process. Tests import all of it from here.
"""

from fake_upstream.answer import Answer, Cut, Gate, Step, Wait
from fake_upstream.certificates import HOSTS, make_certificates
from fake_upstream.errors import (
    bad_request,
    bare_429,
    error,
    error_event,
    failure,
    limited_5h,
    limited_for,
    limited_only_windows,
    model_bucket,
    out_of_credits,
    overloaded,
    permission_denied,
    short_throttle,
    sse_error_first,
    sse_error_midway,
    unauthorized,
)
from fake_upstream.faults import (
    close_before_head,
    cut_after,
    cut_midway,
    encoded,
    garbage,
    huge,
    reset_before_head,
    stall_before_head,
    stall_midway,
)
from fake_upstream.limit_headers import allowed_headers, api_key_headers, rejected_headers, unified
from fake_upstream.logins import Logins, create_api_key, oauth_usage
from fake_upstream.messages import (
    count_tokens,
    event,
    json_answer,
    message_json,
    models,
    sse,
    sse_answer,
    sse_tool,
    stamp,
    usage,
)
from fake_upstream.request import Header, Request
from fake_upstream.script import MESSAGES, TOKEN, AnswerFunction, Script, limit_after
from fake_upstream.server import FakeUpstream

__all__ = [
    "HOSTS",
    "MESSAGES",
    "TOKEN",
    "Answer",
    "AnswerFunction",
    "Cut",
    "FakeUpstream",
    "Gate",
    "Header",
    "Logins",
    "Request",
    "Script",
    "Step",
    "Wait",
    "allowed_headers",
    "api_key_headers",
    "bad_request",
    "bare_429",
    "close_before_head",
    "count_tokens",
    "create_api_key",
    "cut_after",
    "cut_midway",
    "encoded",
    "error",
    "error_event",
    "event",
    "failure",
    "garbage",
    "huge",
    "json_answer",
    "limit_after",
    "limited_5h",
    "limited_for",
    "limited_only_windows",
    "make_certificates",
    "message_json",
    "model_bucket",
    "models",
    "oauth_usage",
    "out_of_credits",
    "overloaded",
    "permission_denied",
    "rejected_headers",
    "reset_before_head",
    "short_throttle",
    "sse",
    "sse_answer",
    "sse_error_first",
    "sse_error_midway",
    "sse_tool",
    "stall_before_head",
    "stall_midway",
    "stamp",
    "unauthorized",
    "unified",
    "usage",
]
