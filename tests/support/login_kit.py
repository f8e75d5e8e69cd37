"""What tests of logins share: a configuration that leads to the fake upstream, and a person with a browser."""

import http.client
import io
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fake_upstream import TOKEN, FakeUpstream
from harness import trusting

CREATE_KEY = "/api/oauth/claude_cli/create_api_key"


def configured(folder: Path, upstream: FakeUpstream, **options: str) -> dict[str, str]:
    """The environment of a command whose logins go to `upstream`."""
    urls = {
        "ccflare_token_url": upstream.url + TOKEN,
        "ccflare_authorize_url": f"{upstream.url}/oauth/authorize",
        "ccflare_console_authorize_url": f"{upstream.url}/oauth/authorize",
        "ccflare_create_key_url": upstream.url + CREATE_KEY,
    }
    file = folder / "config.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in {**urls, **options}.items()))
    return {"ccflare_CONFIG_PATH": str(file)}


def allow(address: str, trusted: Path | None = None) -> str:
    """What the page at `address` shows once the login is allowed: `code#state`."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    if trusted is not None:
        connection = http.client.HTTPSConnection(url.netloc, timeout=60, context=trusting(trusted))
    try:
        connection.request("GET", f"{url.path}?{url.query}")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


class Person(io.StringIO):
    """Stdin and browser in one: allows what is opened, and pastes the code, or what `paste` makes of it."""

    def __init__(self, paste: Callable[[str], str] = lambda code: code, *, trusted: Path | None = None) -> None:
        super().__init__()
        self.paste = paste
        self.trusted = trusted
        self.opened: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """Happens between the page and the paste."""

    def browse(self, address: str) -> bool:
        self.opened.append(address)
        pasted = self.paste(allow(address, self.trusted))
        self.meanwhile()
        self.write(pasted + "\n")
        self.seek(0)
        return True
