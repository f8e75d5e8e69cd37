"""What our own scripts send goes by the proxy that the proxy itself goes by, or by the account's own."""

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from ccflare_cli.accounts.main import main
from ccflare_cli.console import fetcher, read_settings
from ccflare_cli.doctor import proxy_checks
from ccflare_cli.doctor.results import Level
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.messages import Request
from ccflare_core.http.origins import Origin
from ccflare_core.secrets.egress_proxy import configured as named_by
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from connect_proxy import ConnectProxy
from desk import Desk
from fake_upstream import FakeUpstream
from history import NOON
from login_kit import Person, configured

PASSWORD = "p4ssw0rd-of-the-proxy"
LOGIN = f"somebody:{PASSWORD}"


@pytest.fixture(scope="module")
def api() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True) as upstream:
        yield upstream


@pytest.fixture
def way(api: FakeUpstream) -> Iterator[ConnectProxy]:
    with ConnectProxy(api.port, login=LOGIN) as proxy:
        yield proxy


class Scripts:
    """Commands on a database in a folder, whose configuration leads to the fake upstream."""

    def __init__(self, folder: Path, api: FakeUpstream, **options: str) -> None:
        self.database = folder / "ccflare.db"
        trusted = str(api.ca_file)
        self.environ = configured(
            folder, api, ccflare_upstream=api.url, ssl_verify_upstream_trusted_ca=trusted, **options
        )
        self._api = api

    def run(self, *words: str, stdin: io.StringIO | None = None) -> Desk:
        """What it says; AssertionError with that if it fails."""
        desk = self.desk(stdin)
        assert main(["--database", str(self.database), *words], desk.console()) == 0, desk.complained
        return desk

    def refused(self, *words: str, stdin: str = "") -> str:
        """The sentence; argparse's own go past the desk."""
        desk = self.desk(io.StringIO(stdin))
        try:
            code = main(["--database", str(self.database), *words], desk.console())
        except SystemExit as end:
            code = int(end.code or 0)
        assert code in (1, 2)
        return desk.said + desk.complained

    def desk(self, stdin: io.StringIO | None = None) -> Desk:
        browse = stdin.browse if isinstance(stdin, Person) else lambda address: False
        return Desk(stdin or io.StringIO(), now=NOON, environ=self.environ, browse=browse)

    def log_in(self, name: str) -> None:
        self.run("login", name, stdin=Person(trusted=self._api.ca_file))

    def proxies(self) -> dict[str, EgressProxy | None]:
        """The proxy of each account."""
        store = Store.open(self.database, KeyFile(self.database.with_suffix(".key")), wall=lambda: NOON)
        try:
            return {account.name: account.proxy for account in store.accounts.all()}
        finally:
            store.close()

    def settings(self) -> Settings:
        return read_settings(self.desk().console(), str(self.database))


def in_file(folder: Path, proxy: ConnectProxy) -> str:
    file = folder / "egress"
    file.touch(0o600)
    file.write_text(proxy.whole_url)
    return f"file:{file}"


# --- all go by the same


def test_logins_go_by_the_configured_proxy(api: FakeUpstream, way: ConnectProxy, tmp_path: Path) -> None:
    scripts = Scripts(tmp_path, api, ccflare_egress_proxy=in_file(tmp_path, way))
    before = api.connections

    scripts.log_in("max-1")

    assert way.asked_for == [f"localhost:{api.port}"]
    assert api.connections - before == 2  # the person's browser is the other one


def test_scripts_know_mitmproxys_mode_from_the_configuration(
    api: FakeUpstream, way: ConnectProxy, tmp_path: Path
) -> None:
    scripts = Scripts(tmp_path, api, mode=f"[regular, '{way.mode}@8081']", upstream_auth=LOGIN)

    scripts.log_in("max-1")

    assert way.asked_for == [f"localhost:{api.port}"]


def test_the_option_goes_before_the_mode(api: FakeUpstream, way: ConnectProxy, tmp_path: Path) -> None:
    with ConnectProxy(api.port) as open_one:
        scripts = Scripts(tmp_path, api, mode=way.mode, upstream_auth=LOGIN, ccflare_egress_proxy=open_one.url)
        scripts.log_in("max-1")

    assert (way.heads, open_one.asked_for) == ([], [f"localhost:{api.port}"])


async def test_every_request_of_the_scripts_goes_by_it(api: FakeUpstream, way: ConnectProxy, tmp_path: Path) -> None:
    """They all get their client from `fetcher`."""
    scripts = Scripts(tmp_path, api, ccflare_egress_proxy=in_file(tmp_path, way))
    client = fetcher(scripts.desk().console(), scripts.settings(), total_seconds=20)

    await client.send(Request("GET", f"{api.url}/v1/models"))

    assert len(way.heads) == 1


@pytest.mark.parametrize("text", [f"http://{LOGIN}@proxy.example:3128", "socks5://proxy.example", "file:", "cmd: "])
def test_a_proxy_that_the_option_cannot_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^ccflare_egress_proxy: .* allowed is http:// or https://") as refused:
        Settings.build({"ccflare_egress_proxy": text})
    assert PASSWORD not in str(refused.value)


def test_what_the_option_leads_to_has_to_be_a_proxy(tmp_path: Path) -> None:
    file = tmp_path / "egress"
    file.touch(0o600)
    file.write_text(f"{PASSWORD}\n")

    for text in (f"file:{file}", f"file:{tmp_path / 'gone'}", "cmd:false", f"cmd:echo {PASSWORD}"):
        with pytest.raises(ConfigError, match="ccflare_egress_proxy") as refused:
            named_by(text)
        assert PASSWORD not in str(refused.value)
    found = named_by(f"cmd:echo http://{LOGIN}@proxy.example:3128")
    assert found == EgressProxy(Origin("http", "proxy.example", 3128), "somebody", PASSWORD)
    assert named_by("") is None


# --- an account's own


def test_an_account_gets_a_proxy_and_loses_it_again(api: FakeUpstream, tmp_path: Path) -> None:
    scripts = Scripts(tmp_path, api)
    scripts.run("add", "a", "--api-key", "-", stdin=io.StringIO("sk-ant-api03-a"))
    url = f"http://{LOGIN}@proxy.example:3128"

    told = scripts.run("set", "a", "--proxy", "-", stdin=io.StringIO(f"{url}\n"))
    assert told.said == "Everything of a goes by http://proxy.example:3128 now.\n"
    assert scripts.proxies() == {"a": EgressProxy.parse(url)}
    for file in tmp_path.iterdir():
        assert b"proxy.example" not in file.read_bytes()

    scripts.run("set", "a", "--proxy", "https://other.example")
    assert str(scripts.proxies()["a"]) == "https://other.example:443"
    scripts.run("set", "a", "--proxy", "none")
    assert scripts.proxies() == {"a": None}


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        (["a", "--proxy", f"http://{LOGIN}@proxy.example"], "", "are not taken from the command line"),
        (["a", "--proxy", "proxy.example:3128"], "", "a proxy is http:// or https://"),
        (["a", "--proxy", "-"], PASSWORD, "What came on stdin cannot be used: a proxy is http:// or https://"),
        (["a"], "", "--proxy"),
        (["b", "--proxy", "none"], "", "There is no account called b"),
    ],
)
def test_a_proxy_that_cannot_be_an_accounts_is_refused(
    words: Sequence[str], stdin: str, told: str, api: FakeUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = Scripts(tmp_path, api)
    scripts.run("add", "a", "--api-key", "-", stdin=io.StringIO("sk-ant-api03-a"))

    said = scripts.refused("set", *words, stdin=stdin) + capsys.readouterr().err
    assert told in said
    assert PASSWORD not in said
    assert scripts.proxies() == {"a": None}


def test_an_account_with_a_proxy_needs_an_upstream_with_tls(upstream: FakeUpstream, tmp_path: Path) -> None:
    environ = configured(tmp_path, upstream, ccflare_upstream=upstream.url)
    desk = Desk(io.StringIO(), environ=environ)
    words = ["--database", str(tmp_path / "ccflare.db"), "set", "a", "--proxy", "http://proxy.example:3128"]

    assert main(words, desk.console()) == 1
    assert "The proxy could read the credential" in desk.complained


def test_a_login_anew_goes_by_the_accounts_own_proxy(api: FakeUpstream, way: ConnectProxy, tmp_path: Path) -> None:
    scripts = Scripts(tmp_path, api)
    scripts.log_in("max-1")
    scripts.run("set", "max-1", "--proxy", "-", stdin=io.StringIO(way.whole_url))
    assert way.heads == []

    scripts.log_in("max-1")

    assert way.asked_for == [f"localhost:{api.port}"]


# --- what the doctor says of them


def test_the_doctor_asks_by_the_same_ways(api: FakeUpstream, way: ConnectProxy, tmp_path: Path) -> None:
    scripts = Scripts(tmp_path, api, ccflare_egress_proxy=in_file(tmp_path, way))
    console, settings = scripts.desk().console(), scripts.settings()

    fetch = partial(fetcher, console, settings)
    results = [r for r in proxy_checks.upstream(settings, fetch, NOON) if r.check == "upstream.tls"]
    assert [(result.level, "its certificate is verified" in result.found) for result in results] == [(Level.OK, True)]
    assert len(way.heads) == 1

    scripts.run("add", "a", "--api-key", "-", stdin=io.StringIO("sk-ant-api03-a"))
    with ConnectProxy(api.port) as own:
        scripts.run("set", "a", "--proxy", own.url)
        store = Store.open(scripts.database, KeyFile(scripts.database.with_suffix(".key")))
        (good,) = proxy_checks.ways(store, settings, fetch)
        assert (good.level, good.found) == (Level.OK, f"the proxy of a, {own.url}, leads to {settings.upstream}")
        own.status = 407
        (bad,) = proxy_checks.ways(store, settings, fetch)
        store.close()
    assert bad.level is Level.FAIL
    assert "407: it wants another user and password" in bad.found
