"""What every command works with: three streams, the environment, a clock, the database."""

import argparse
import getpass
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from ccflare_cli.output import Table, printable, render
from ccflare_cli.page import Page, page_of
from ccflare_cli.streams import Unwritable, drop, standard
from ccflare_core.audit.entries import By
from ccflare_core.config import settings
from ccflare_core.config.environment import all_explained
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_frozen, is_made
from ccflare_core.errors import CCFlareError
from ccflare_core.http.origins import reachable
from ccflare_core.process import hide_memory
from ccflare_core.secrets import egress_proxy
from ccflare_core.secrets.key_sources import KeySource, choose
from ccflare_core.store.store import Store
from ccflare_core.text import sentence

if TYPE_CHECKING:
    from ccflare_core.http.client import Fetcher

OK, REFUSED = 0, 1
SECRET_LIMIT = 64 * 1024
"""Characters. No key or token file is near it; a wrong file on stdin may be."""

_UNAUDITED = "This copy of the database cannot be written, so its audit log does not tell that you read it."


class Refused(CCFlareError):
    """A command will not do what was asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Console:
    """Where a command reads, writes and learns the time. Tests make their own."""

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str] = field(repr=False)
    now: Callable[[], float]
    ask_secret: Callable[[str], str]
    browse: Callable[[str], bool]
    """Opens an address in the person's browser; whether there is one."""

    @classmethod
    def real(cls) -> Self:
        """This process's own, which nobody can look into from now on."""
        hide_memory()
        now = time.time  # noqa: TID251
        return cls(*standard(), os.environ, now, getpass.getpass, _browse)

    def say(self, text: str) -> None:
        """A sentence for the reader of the output, in lines that fit."""
        page = self._page(self.stdout)
        print(page.folded(page.plain(text)), file=self.stdout)

    def write(self, text: str) -> None:
        """Lines that stay as they are: for a program, to be copied, or laid out already."""
        print(self._page(self.stdout).plain(text), file=self.stdout)

    def show(self, arguments: argparse.Namespace, *tables: Table[Any]) -> None:
        """Tables in the format that was asked for, as wide as the output is."""
        print(render(tables, arguments.format, self.page(arguments)), file=self.stdout)

    def page(self, arguments: argparse.Namespace) -> Page:
        """The page that the output is, with --wide one without an edge."""
        return self._page(self.stdout, wide=arguments.wide)

    def complain(self, text: str) -> None:
        """A line for the person at the keyboard, apart from the output."""
        page = self._page(self.stderr)
        print(page.folded(page.plain(text)), file=self.stderr)

    def _page(self, stream: TextIO, *, wide: bool = False) -> Page:
        return page_of(stream, self.environ, wide=wide)

    def ask(self, question: str) -> str:
        """The line that is typed in answer; empty at the end of input."""
        self.stdout.flush()  # what was said before comes first
        print(question, end=" ", file=self.stderr, flush=True)
        with _as_text():
            return self.stdin.readline(SECRET_LIMIT).rstrip("\r\n")

    def secret(self, prompt: str) -> str:
        """A secret, typed unseen at a terminal, else all of stdin."""
        with _as_text():
            if self.stdin.isatty():
                return self.ask_secret(prompt).strip()
            text = self.stdin.read(SECRET_LIMIT + 1)
        if len(text) > SECRET_LIMIT:
            raise Refused("What came on stdin is too long for a key or tokens; check which file it was.")
        return text.strip()

    def new_secret(self, prompt: str, again: str) -> str:
        """A secret that is to be known later: typed twice at a terminal, where nobody sees a slip."""
        secret = self.secret(prompt)
        if secret and self.stdin.isatty() and self.secret(again) != secret:
            raise Refused("That was not the same twice; nothing was changed.")
        return secret


@contextmanager
def _as_text() -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise Refused("Nothing was typed.") from None
    except UnicodeDecodeError:
        raise Refused("What came on stdin is not text; check which file it was.") from None


def _browse(address: str) -> bool:
    # Without a display there are only browsers that would take over the terminal, and wait for their end.
    seats = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform not in ("darwin", "win32") and not any(os.environ.get(name) for name in seats):
        return False
    import webbrowser  # as in `fetcher`: a fifth of the start of every script that needs neither

    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


def operator() -> By:
    """Who sits at the console, for the audit log: the user that this process runs as, whatever the environment says."""
    try:
        pwd = importlib.import_module("pwd")
        name = pwd.getpwuid(os.geteuid()).pw_name
    except ImportError:  # there is none on Windows
        name = getpass.getuser()
    except KeyError:
        name = str(os.geteuid())
    return By(f"cli:{name}")


@contextmanager
def open_store(
    console: Console, settings: Settings, source: KeySource | None, *, read_only: bool = False
) -> Iterator[Store]:
    """The store of the configured database. What is changed is audited as the operator's."""
    second = None if read_only else settings.audit_path
    store = Store.open(
        settings.database, source, read_only=read_only, by=operator(), audit_file=second, wall=console.now
    )
    try:
        yield store
    finally:
        store.close()
        if store.audit.file and store.audit.file.trouble:
            console.complain(sentence(store.audit.file.trouble))


@contextmanager
def open_made_store(
    console: Console, settings: Settings, source: KeySource | None, nothing: str, *, read_only: bool = False
) -> Iterator[Store]:
    """The same, of a database that is there already; Refused says that there is `nothing`."""
    if not is_made(settings.database):
        raise Refused(f"{nothing}: {settings.database} does not exist yet.")
    with open_store(console, settings, source, read_only=read_only) as store:
        yield store


def check_made(settings: Settings) -> None:
    """Raises Refused if nothing can be read yet: there is no database."""
    if not is_made(settings.database):
        raise Refused("There is no database yet: start the proxy and send a request first.")


def open_sealed(console: Console, settings: Settings) -> AbstractContextManager[Store]:
    """The store with its key, for what is read out of it, once the audit log has an entry of that."""
    frozen = is_frozen(settings.database)
    return open_store(console, settings, choose(settings, console.environ), read_only=frozen)


def note_reading(console: Console, store: Store, target: str, part: str) -> None:
    """Have the audit log tell what is about to be read; what cannot be audited is not read.

    But the log of a copy that nobody here can write goes on elsewhere, if at all: there the person is told so.
    """
    if store.is_frozen:
        console.complain(_UNAUDITED)
    else:
        store.note("data.read", target, part=part)


def reading_stages(
    console: Console, store: Store, target: str, **detail: object
) -> AbstractContextManager[dict[str, object]]:
    """The same of what is written into a file, with an entry before and after it; see Store.stages."""
    if store.is_frozen:
        console.complain(_UNAUDITED)
        return nullcontext({})
    return store.stages("data.export", target, **detail)


def read_settings(console: Console, database: str | None) -> Settings:
    """The settings that the proxy would have, with `database` before its own. Raises ConfigError."""
    values = settings.defaults(console.environ)
    if database:
        values["ccflare_database"] = database
    return Settings.build(values, console.environ)


def fetcher(console: Console, settings_: Settings, **limits: Any) -> "Fetcher":
    """Our own client, as the proxy has it: the authorities that it trusts, and the proxy on its way.

    What is mitmproxy's to say of them is known as far as the configuration file says it, not what `mitmdump` was told
    on its command line. Raises ConfigError if one of the two cannot be used.
    """
    from ccflare_core.http.client import Fetcher

    found = settings.defaults(console.environ)
    trusted = found.get("ssl_verify_upstream_trusted_ca")
    proxy = egress_proxy.configured(settings_.egress_proxy)
    if proxy is None:
        modes, auth = found.get("mode"), found.get("upstream_auth")
        named = modes if isinstance(modes, list) else [modes]
        proxy = egress_proxy.of_modes(map(str, named), str(auth) if auth else None)
    return Fetcher(ca_file=Path(str(trusted)).expanduser() if trusted else None, proxy=lambda: proxy, **limits)


def proxy_address(console: Console) -> str:
    """Host and port by which programs on this machine reach the proxy, as it is configured."""
    values = settings.defaults(console.environ)
    host, port = reachable(str(values.get("listen_host") or "")), values.get("listen_port") or 8080
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def guarded(console: Console, command: Callable[[], int]) -> int:
    """The command's exit code, with every expected error turned into one sentence on stderr."""
    try:
        code = command()
        console.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has enough
        drop(sys.stdout)
        return REFUSED
    except CCFlareError as error:
        if isinstance(error, Unwritable):
            drop(sys.stdout)
        lines = all_explained(str(error).splitlines(), console.environ)
        console.complain("\n".join(sentence(printable(line)) for line in lines))
        return REFUSED
    return code
