"""Finds secrets by the name that they stand behind: `password`, `api_key`, in code, files, headers, commands.

A quoted value is a secret whatever it is. One without quotation marks might be code, so it has to look like one, or
stand where a shell or a header would have it.
"""

import re
from collections.abc import Iterator

from ccflare_core.secrets.escapes import backslashes
from ccflare_core.secrets.spans import Budget, Span

# A name that ends like this guards its value, whatever stands before: `db_password`, `slackBotToken`.
_KEYS = (
    *("api", "private", "secret", "access", "signing", "encryption", "master", "account", "shared", "preshared"),
    *("auth", "license", "client", "deploy", "app", "application", "storage", "service", "session", "hmac", "webhook"),
    *("admin", "role", "write", "subscription", "integration", "consumer", "management", "project", "gateway"),
)
_ENDINGS = tuple(
    ending.encode()
    for ending in (
        *("token", "secret", "password", "passwd", "passphrase", "pwd", "authorization", "cookie", "_pass", "-pass"),
        *("dbpass", "userpass", "secret_key_base"),
        *(f"{stem}{key}" for stem in _KEYS for key in ("_key", "-key", "key")),
    )
)
_LONGEST_STEM = 24

_SEPARATOR = (
    # name = …, "name": …, ['name'] = …, name := …, :name => …
    rb"(?P<quote>\\*+[\"'`]|)\]?\s{0,8}+(?P<sign>=>|:=|[:=])\s{0,8}+"
    # - name: DB_PASSWORD, value: …; {"name": …, "value": …}; key="…" value="…"; "db_password" { default = …
    rb"|(?:\\*+[\"'])?(?:,|\s?\{)?(?:\s|\\+[nrt]){0,40}+"
    rb"(?P<second>\\*+[\"']|)(?:value|default)\\*+[\"']?\s{0,4}+[:=]\s{0,4}+"
    # <name>…
    rb"|(?P<element>>)"
    # --name …, password …
    rb"|(?P<blank>[ ])(?=\\*+[\"']|[^\s\"'\\]{12})"
)
# Nearly all that is no name fails at these two already.
_NO_PROSE = rb"(?![.,)s]|[ ][a-z]{1,11}+[ ,.])"
_MAY_FOLLOW = rb"(?=[\\\"'`\]:=>,{\n]|[ ]{1,8}(?:[:={\"'\\]|[^\s\"'\\]{12}))"
_NAMES = tuple(
    (word, re.compile(word + _NO_PROSE + rb"(?P<rest>[a-z0-9_]{0,32}+)" + _MAY_FOLLOW + rb"(?:" + _SEPARATOR + rb")"))
    for word in (b"token", b"secret", b"pass", b"key", b"auth", b"cookie", b"pwd")
)

_QUOTE = re.compile(rb'(\\*+)"')
_APOSTROPHES = re.compile(rb"(['`])((?:(?!\1)[^\"\r\n\\]){1,512})\1")
_BARE_STRING = re.compile(rb"\"([^\s\"\\,}\]:)][^\s\"\\]{3,511})\"")
_NUMBER = re.compile(rb"-?\d[\d.eE+-]{0,40}+")
_BETWEEN = re.compile(rb"\s{0,64}+,?\s{0,64}+")
_SCHEME = re.compile(rb"(?:basic|bearer|digest|token|negotiate)\s{1,4}+([^\s\"'\\,]{4,}+)")
_COOKIES = re.compile(rb"([^\s=;:\"'\\]{1,128}+=[^\r\n\"'\\]++)")
_HEADER_VALUE = re.compile(rb"([^\s\"'\\]{8,}+)")
_ELEMENT = re.compile(rb"([^\s<>\"\\]{4,512}+)</")
# A `;` is part of it unless another name or nothing follows, a `'` unless nothing does.
_BARE = re.compile(
    rb"((?:[^\s\"'`\\,;<>&|(){}\[\]]|;(?![\w ]{0,40}=|[\s\\\"']|$)|'(?=[^\s\\,;)\"'\]}])){6,512}+)([(\[{]?)"
)

# What code and documents have in a value's place.
_NO_VALUE = re.compile(
    rb"\$(?![0-9a-z]{1,8}\$)|[<{]|%[({s]|(?i:true|false|none|null|nil|undefined|required|optional|https?:)"
)
_FILLED_IN = re.compile(rb"(?:[$%]?\{[^{}]*\}|%\(\w+\)s|%s|<[\w .-]+>|\.+`*)\Z")
_FILE = (b"/", b"./", b"../", b"~")
_IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z_.]*\Z")
_CHAIN = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z")
_DIGIT = re.compile(rb"[0-9]")
# What was drawn at random goes back and forth between letters and digits.
_TURN = re.compile(rb"(?<=[A-Za-z])[0-9]|(?<=[0-9])[A-Za-z]|(?<=[a-z])[A-Z]|[+~!#%^](?=[A-Za-z0-9])")
_LEAST_TURNS = 5
_LEAST_LENGTH = 12

_WORD = b"abcdefghijklmnopqrstuvwxyz0123456789_"
_LONGEST_NAME = 64
_LINE_STARTS = (b"\n", b"\r", b"\\", b"export ", b"env ", b"arg ", b"set ", b"-e ", b"--env ", b"--build-arg ")
_LOGIN = re.compile(rb"\blogin\s{1,4}\S{1,100}\s{1,4}\Z")
# What follows the quotation mark if that is the end of a string such as "Password: ".
_AFTER_STRING = tuple(bytes([byte]) for byte in b" )],;:}.+%|\\\n\r\t")


def find(view: bytes, budget: Budget, low: int, high: int) -> Iterator[Span]:
    """The values in `view` that stand behind such names, if those begin from `low` to `high`. Raises TooMuch."""
    lower = view.lower()
    for word, pattern in _NAMES:
        done, start = 0, lower.find(word, low, high)
        while start >= 0:
            match = pattern.match(lower, start)
            if match and (match["blank"] is None or _takes_blank(lower, match)):
                budget.spend()
                for span in _guarded(view, lower, match):
                    done = span.end
                    yield span
            # Within a value already, to look for its end once more would be quadratic.
            start = lower.find(word, max(start + len(word), done), high)


def _guarded(view: bytes, lower: bytes, match: re.Match[bytes]) -> Iterator[Span]:
    """What the name at `match` guards, without what code fills in later."""
    name = lower[max(0, match.start() - _LONGEST_STEM) : match.end("rest")]
    if name.rstrip(b"0123456789_").endswith(_ENDINGS):
        for span in _values(view, lower, match, name):
            if not _FILLED_IN.match(view, span.start, span.end):
                yield span
    elif name.endswith((b"auth", b"_key")):
        yield from _in_shell(view, lower, match, name)


def _values(view: bytes, lower: bytes, match: re.Match[bytes], name: bytes) -> Iterator[Span]:
    """Strings, a number, or what a shell or a header has behind the name."""
    position = match.end()
    if match["element"]:
        yield from _element(view, lower, match)
    elif (value := _APOSTROPHES.match(view, position)) and _is_opened(view, match, value.start(2)):
        yield Span(*value.span(2), "secret")
    elif match["second"] is not None:
        yield from _member(view, lower, match, name)
    elif match["quote"] and match["quote"].endswith(b'"') and match["sign"] == b":":
        yield from _in_json(view, position, match["quote"])
    elif view.startswith(b"\\", position):
        # Escaped: with a bare quotation mark the JSON string would end in which all of this stands.
        opening = _QUOTE.match(view, position)
        if opening and _is_opened(view, match, opening.end()) and (string := _string(view, position)):
            yield string
    elif bare := _BARE_STRING.match(view, position):
        yield Span(*bare.span(1), "secret")
    elif match["sign"] == b":" and (expected := _header_value(name)) and (value := expected.match(lower, position)):
        yield Span(*value.span(1), "secret")
    else:
        yield from _in_shell(view, lower, match, name)


def _is_opened(view: bytes, match: re.Match[bytes], start: int) -> bool:
    """Whether a string starts there, and does not end with the name: `getpass("Password: ")`."""
    return bool(match["quote"]) or match["sign"] == b"=" or not view.startswith(_AFTER_STRING, start)


def _takes_blank(lower: bytes, match: re.Match[bytes]) -> bool:
    """Whether a value may follow without a sign: that of an option, or as ~/.netrc has it."""
    start, end = match.start(), match.end("rest")
    low = max(0, start - _LONGEST_NAME)
    if lower.find(b"--", low, start) < 0 and lower.find(b"login ", low, start) < 0:
        return False
    head = lower[low:end].rstrip(_WORD + b"-")
    name = lower[low + len(head) : end]
    return name.startswith(b"--") or (name in (b"password", b"npassword") and bool(_LOGIN.search(head + b" ")))


def _element(view: bytes, lower: bytes, match: re.Match[bytes]) -> Iterator[Span]:
    """The text of an XML element."""
    opening = lower.rfind(b"<", max(0, match.start() - _LONGEST_NAME), match.start())
    value = _ELEMENT.match(view, match.end())
    if opening < 0 or not value or _NO_VALUE.match(value[1]):
        return
    if lower.startswith(lower[opening + 1 : match.end("rest")], value.end()):
        yield Span(*value.span(1), "secret")


def _member(view: bytes, lower: bytes, match: re.Match[bytes], name: bytes) -> Iterator[Span]:
    """The value beside a name."""
    position = match.end()
    if (match["second"] or view.startswith(b"\\", position)) and (string := _string(view, position)):
        yield string
    elif bare := _BARE_STRING.match(view, position):
        yield Span(*bare.span(1), "secret")
    else:
        yield from _in_shell(view, lower, match, name)


def _in_shell(view: bytes, lower: bytes, match: re.Match[bytes], name: bytes) -> Iterator[Span]:
    """A value without quotation marks, as in a file of environment variables, in YAML, a URL, a command."""
    opening = _QUOTE.match(view, match.end())
    value = _BARE.match(view, opening.end() if opening else match.end())
    if not value or value[2] or _NO_VALUE.match(value[1]):
        return
    found = value[1].rstrip(b".:")
    if _looks_random(found) or (
        not opening and _is_variable(view, lower, match, name) and _is_told(found, lower, match)
    ):
        yield Span(value.start(1), value.start(1) + len(found), "secret")


def _looks_random(value: bytes) -> bool:
    """Whether letters and digits change so often that it is no name in code, such as `ed25519.Ed25519PublicKey`."""
    turns = len(_TURN.findall(value))
    least = _LEAST_TURNS + 2 * value.startswith(_FILE)
    often = turns * (4 if _CHAIN.match(value) else 6) > len(value)
    return often and turns >= least and len(value) >= _LEAST_LENGTH and bool(_DIGIT.search(value))


def _is_variable(view: bytes, lower: bytes, match: re.Match[bytes], name: bytes) -> bool:
    """Whether it is one of the environment: `API_TOKEN=…`, nothing in between, or one that Kubernetes sets."""
    if not view[match.start() : match.end("rest")].isupper() or not name.rstrip(b"0123456789_").endswith(_ENDINGS):
        return False
    return match["second"] is not None or (match["sign"] == b"=" and match.end("rest") + 1 == match.end())


def _is_told(value: bytes, lower: bytes, match: re.Match[bytes]) -> bool:
    """Whether such a variable's value is the secret itself: no count, no file, no name in code."""
    if value.isdigit() or value.startswith(_FILE):
        return False
    if match["second"] is not None or not _IDENTIFIER.match(value):
        return True
    return b"." not in value and _begins(lower, match).endswith(_LINE_STARTS)


def _begins(lower: bytes, match: re.Match[bytes]) -> bytes:
    """What stands before the whole name; a line's end if that is the beginning."""
    return lower[max(0, match.start() - _LONGEST_NAME) : match.start()].rstrip(_WORD) or b"\n"


def _header_value(name: bytes) -> re.Pattern[bytes] | None:
    if name.endswith(b"authorization"):
        return _SCHEME
    if name.endswith(b"cookie"):
        return _COOKIES
    return _HEADER_VALUE if name.endswith((b"api-key", b"-token", b"auth-key")) else None


def _in_json(view: bytes, position: int, quote: bytes) -> Iterator[Span]:
    """The value of a key in such quotation marks: a string, strings in a list, or a number."""
    if view.startswith(b"[", position):
        position = _after(_BETWEEN, view, position + 1)
        while view.startswith(quote, position) and (string := _string(view, position)):
            yield string
            position = _after(_BETWEEN, view, string.end + len(quote))
    elif view.startswith(quote, position) and (string := _string(view, position)):
        yield string
    elif number := _NUMBER.match(view, position):
        yield Span(*number.span(), "number")


def _after(pattern: re.Pattern[bytes], view: bytes, position: int) -> int:
    match = pattern.match(view, position)
    return match.end() if match else position


def _string(view: bytes, position: int) -> Span | None:
    """The inside of the string that begins here; it may be in a string itself, which escapes its quotation marks."""
    if (opening := _QUOTE.match(view, position)) is None:
        return None
    depth, start = len(opening[1]), opening.end()
    end = view.find(b'"', start)
    while end >= 0:
        escapes = backslashes(view, start, end)
        if escapes <= depth or (depth == 0 and escapes % 2 == 0):
            return Span(start, end - min(escapes, depth), "secret")
        end = view.find(b'"', end + 1)
    return Span(start, len(view), "secret")
