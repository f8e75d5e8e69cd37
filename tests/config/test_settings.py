"""The settings, and the three places that they come from."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.oauth import Endpoints
from ccflare_core.config.option import Applies, Group
from ccflare_core.config.settings import (
    OPTIONS,
    SHIPPED,
    Settings,
    config_file,
    defaults,
    environment_defaults,
    file_defaults,
    own_file,
    places,
)
from ccflare_core.errors import ConfigError
from ccflare_core.reading import TEXT_LIMIT

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "mitm-config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return list(error.value.problems)


# --- building ------------------------------------------------------------------------------------------------------


def test_without_a_word_from_anyone_the_defaults_hold() -> None:
    settings = Settings.build({})

    assert settings.upstream == ("https", "api.anthropic.com", 443)
    assert (settings.strategy, settings.hold_seconds, settings.allow_remote) == ("session", 30, False)
    assert settings.prices_path is None


def test_each_option_has_its_field() -> None:
    renamed = {
        "key_file": "key_path",
        "audit_file": "audit_path",
        "prices": "prices_path",
        "agents": "agents_path",
        "rules": "rules_path",
    }
    nouns = [option.name.removeprefix("ccflare_") for option in OPTIONS]

    fields = {field.name for field in dataclasses.fields(Settings)}

    assert fields == {renamed.get(noun, noun) for noun in nouns} | {"upstream_path"}


def test_a_gateways_path_goes_before_the_apis() -> None:
    settings = Settings.build({"ccflare_upstream": "https://gateway.example/anthropic/"})

    assert (settings.upstream, settings.upstream_path) == (("https", "gateway.example", 443), "/anthropic")
    assert settings.api_url("/api/oauth/usage") == "https://gateway.example:443/anthropic/api/oauth/usage"
    assert settings.endpoints == Endpoints()


def test_logins_go_where_the_options_say_and_by_default_where_claude_codes_go() -> None:
    assert Settings.build({}).endpoints == Endpoints()

    elsewhere = Settings.build({"ccflare_token_url": "http://localhost:9/token", "ccflare_scopes": "a b"}).endpoints

    assert (elsewhere.token_url, elsewhere.scopes) == ("http://localhost:9/token", ("a", "b"))


@pytest.mark.parametrize("url", ["http://example.com/token", "https://me:hidden@host/token", "ftp://localhost", ""])
def test_secrets_are_sent_to_no_unsafe_address(url: str) -> None:
    with pytest.raises(ConfigError, match="ccflare_token_url") as error:
        Settings.build({"ccflare_token_url": url})

    assert "hidden" not in str(error.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.build({}).strategy = "round-robin"  # type: ignore[misc]


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {
        "ccflare_upstream": "https://me:hidden@host",
        "ccflare_hold_seconds": 601,
        "ccflare_record": "some",
        "ccflare_tuning": "true",
        "ccflare_hold_second": 1,
        "listen_port": "mitmproxy checks this",
    }

    with pytest.raises(ConfigError) as error:
        Settings.build(wrong)

    assert [problem.split(":")[0] for problem in problems(error)] == [
        "ccflare_hold_second",
        "ccflare_upstream",
        "ccflare_hold_seconds",
        "ccflare_record",
        "ccflare_tuning",
    ]
    assert "601 cannot be used; allowed is a whole number from 0 to 600" in str(error.value)
    assert "hidden" not in str(error.value)


@given(st.dictionaries(st.sampled_from([option.name for option in OPTIONS]), st.text() | st.integers() | st.booleans()))
def test_any_values_make_settings_or_are_refused(values: dict[str, object]) -> None:
    is_wrong = any(option.problem(values[option.name]) for option in OPTIONS if option.name in values)

    try:
        Settings.build(values)
    except ConfigError:
        assert is_wrong or "ccflare_key_file" in values
    else:
        assert not is_wrong


# --- paths ---------------------------------------------------------------------------------------------------------


def test_the_database_lies_in_the_data_folder_and_the_key_beside_it(tmp_path: Path) -> None:
    settings = Settings.build({}, {"XDG_DATA_HOME": str(tmp_path)})

    assert settings.database == tmp_path / "ccflare" / "ccflare.db"
    assert settings.key_path == tmp_path / "ccflare" / "ccflare.key"


def test_databases_on_servers_have_their_audit_logs_copies_each_in_a_file_of_its_own(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path)}
    urls = ("postgresql://u@db.example/one", "postgresql://u@db.example/two")
    first, second = (Settings.build({"ccflare_database": url}, environ).audit_path for url in urls)

    assert first is not None
    assert (first.parent, first.suffixes) == (tmp_path / "ccflare", [".audit", ".jsonl"])
    assert second not in (None, first)
    assert Settings.build({"ccflare_database": urls[0]}, environ).audit_path == first


def test_a_relative_data_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    settings = Settings.build({}, {"XDG_DATA_HOME": "here"})

    assert settings.database == tmp_path / ".local" / "share" / "ccflare" / "ccflare.db"


def test_paths_are_absolute_and_know_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    settings = Settings.build({"ccflare_database": "~/a.db", "ccflare_key_file": "b.key", "ccflare_prices": "~/c.yaml"})

    assert settings.database == tmp_path / "a.db"
    assert settings.key_path == tmp_path / "b.key"
    assert settings.prices_path == tmp_path / "c.yaml"


@pytest.mark.parametrize(
    "values", [{"ccflare_database": "/x/y.key"}, {"ccflare_database": "/x", "ccflare_key_file": "/x"}]
)
def test_the_key_never_lies_in_the_database(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="ccflare_key_file"):
        Settings.build(values)


def test_a_home_folder_that_nobody_has_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"ccflare_database: .*the path of a file"):
        Settings.build({"ccflare_database": "~no-such-user/x.db"})


# --- the environment -----------------------------------------------------------------------------------------------


def test_the_originals_variables_are_understood() -> None:
    found = environment_defaults(
        {
            "PORT": "9000",
            "HOST": "127.0.0.2",
            "LB_STRATEGY": "least-used",
            "SESSION_DURATION_MS": "60000",
            "RETRY_ATTEMPTS": "1",
            "RETRY_DELAY_MS": "50",
            "RETRY_BACKOFF": "3",
            "CLIENT_ID": "abc",
            "LOG_LEVEL": "ERROR",
            "LOG_FORMAT": "json",
            "ccflare_DB_PATH": "/x.db",
            "ccflare_ENCRYPTION_KEY": "hidden",
        }
    )

    assert found == {
        "listen_port": 9000,
        "listen_host": "127.0.0.2",
        "ccflare_strategy": "least-used",
        "ccflare_session_seconds": 60,
        "ccflare_retry_attempts": 1,
        "ccflare_retry_delay_ms": 50,
        "ccflare_retry_backoff": 3,
        "ccflare_client_id": "abc",
        "ccflare_log_level": "error",
        "ccflare_log_format": "json",
        "ccflare_database": "/x.db",
    }


def test_an_empty_variable_sets_nothing() -> None:
    assert environment_defaults({"PORT": "", "HOST": " ", "LB_STRATEGY": "", "ccflare_DEBUG": ""}) == {}


@pytest.mark.parametrize(("debug", "level"), [("1", "debug"), ("true", "debug"), ("0", "error")])
def test_the_debug_variable_outdoes_the_level(debug: str, level: str) -> None:
    found = environment_defaults({"ccflare_DEBUG": debug, "LOG_LEVEL": "error"})

    assert found == {"ccflare_log_level": level}


def test_all_mistakes_in_the_environment_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        environment_defaults({"PORT": "80a", "RETRY_ATTEMPTS": "99", "ccflare_DEBUG": "?", "CCFLARE_DB_PATH": "x"})

    names = [problem.split(":")[0] for problem in problems(error)]
    assert names == ["CCFLARE_DB_PATH", "RETRY_ATTEMPTS", "PORT", "ccflare_DEBUG"]


@given(st.dictionaries(st.sampled_from(["PORT", "HOST", "LOG_LEVEL", "SESSION_DURATION_MS", "CLIENT_ID"]), st.text()))
def test_what_the_environment_gives_is_allowed_as_an_option(environ: dict[str, str]) -> None:
    try:
        found = environment_defaults(environ)
    except ConfigError:
        return
    Settings.build(found)


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_file_of_this_repository_holds_what_it_says() -> None:
    found = file_defaults(ROOT / "mitm-config.yaml")

    assert found["listen_host"] == "127.0.0.1"
    assert found["connection_strategy"] == "lazy"
    assert not [name for name in found if "tls_version" in name]
    Settings.build(found)


def test_the_file_of_this_repository_shows_each_option_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "mitm-config.yaml").read_text(encoding="utf-8")
    uncommented = "\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ccflare_"))

    found = file_defaults(write(tmp_path, uncommented))

    assert found == {option.name: option.default for option in OPTIONS}
    assert list(found) == [option.name for option in OPTIONS]


def test_file_of_this_repository_has_a_section_for_each_group_and_marks_what_takes_a_restart() -> None:
    lines = (ROOT / "mitm-config.yaml").read_text(encoding="utf-8").splitlines()
    marked = [line.split(":")[0].removeprefix("# ") for line in lines if line.endswith("  # after a restart")]

    assert [line.split("--")[1].strip() for line in lines if line.startswith("# -- ")] == list(Group)
    assert marked == [option.name for option in OPTIONS if option.applies is Applies.RESTART]


def test_off_is_a_word_and_mitmproxys_options_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "ccflare_record: off\nmode: [regular]\nhttp2: false\n")

    assert file_defaults(path) == {"ccflare_record": "off", "mode": ["regular"], "http2": False}


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff# with a byte order mark\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert file_defaults(write(tmp_path, text)) == {}


def test_all_mistakes_in_the_file_are_told_with_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, 'ccflare_retry_attempts: "3"\nccflare_recrod: full\nccflare_prices:\n')

    with pytest.raises(ConfigError) as error:
        file_defaults(path)

    told = [problem.removeprefix(f"{path}: ").split(":")[0] for problem in problems(error)]
    assert told == ["ccflare_recrod", "ccflare_retry_attempts", "ccflare_prices"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: [\n", "line 3: this is not YAML"),
        ("a: 1\na: 2\n", "line 2: this is not YAML"),
        ("- a\n", "these are no options"),
        ("text\n", "these are no options"),
        ("1: 2\n", "these are no options"),
        ("[" * 1000, "this is not YAML"),
        (b"\xff\xfe", "the file is not text"),
        ("#" * (TEXT_LIMIT + 1), "the file is longer than 256 KiB"),
    ],
)
def test_what_is_no_list_of_options_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        file_defaults(write(tmp_path, text))


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ccflare_CONFIG_PATH: there is no file .*gone\.yaml"):
        config_file({"ccflare_CONFIG_PATH": str(tmp_path / "gone.yaml")}, ROOT)
    with pytest.raises(ConfigError, match=r"gone\.yaml: the file cannot be read"):
        file_defaults(tmp_path / "gone.yaml")


def test_the_file_beside_the_addon_may_be_missing(tmp_path: Path) -> None:
    assert config_file({}, tmp_path) is None
    assert file_defaults(None) == {}


def test_the_users_own_file_comes_before_the_one_beside_the_addon(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path / "data")}
    shipped = write(tmp_path, "listen_port: 1\n")
    own = own_file(environ)
    assert own is not None
    assert config_file(environ, tmp_path) == shipped
    assert places(environ, tmp_path) == {"listen_port": "mitm-config.yaml"}

    own.parent.mkdir(parents=True)
    own.write_text("listen_port: 2\n")

    assert config_file(environ, tmp_path) == own
    assert places(environ, tmp_path) == {"listen_port": str(own)}
    assert config_file({**environ, "ccflare_CONFIG_PATH": str(shipped)}, tmp_path) == shipped


def test_packages_have_the_file_of_this_repository() -> None:
    """For an installation, which has nothing beside them."""
    packaged = ROOT / "addon" / "ccflare_core" / "config" / "mitm-config.yaml"

    assert SHIPPED == ROOT
    assert packaged.samefile(ROOT / "mitm-config.yaml")


# --- together ------------------------------------------------------------------------------------------------------


def test_the_environment_outdoes_the_file(tmp_path: Path) -> None:
    write(tmp_path, "listen_port: 1\nccflare_strategy: round-robin\nccflare_hold_seconds: 5\n")

    found = defaults({"PORT": "2", "LB_STRATEGY": "least-used"}, tmp_path)

    assert found == {"listen_port": 2, "ccflare_strategy": "least-used", "ccflare_hold_seconds": 5}


def test_mistakes_of_file_and_environment_come_together(tmp_path: Path) -> None:
    write(tmp_path, "ccflare_record: some\n")

    with pytest.raises(ConfigError) as error:
        defaults({"PORT": "x", "ccflare_FOO": "1"}, tmp_path)

    assert len(problems(error)) == 3
