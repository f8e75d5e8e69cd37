"""How much is recorded: what the owner says in general and for paths, and what a client's key says."""

import pytest

from ccflare_core.config.record_mode import Mode, Rule, parse_rules, record_mode

RULES = parse_rules("/v1/files*=off, /v1/messages/count_tokens=metadata,/v1/messages*=full")


def test_rules_in_their_order() -> None:
    assert (
        Rule("/v1/files*", Mode.OFF),
        Rule("/v1/messages/count_tokens", Mode.METADATA),
        Rule("/v1/messages*", Mode.FULL),
    ) == RULES
    assert parse_rules(" ") == ()


@pytest.mark.parametrize("text", ["/v1=some", "v1=off", "/v1", "/v1=off,", "/v1=off;/v2=off", "/v 1=off", "=off"])
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match="is no rule"):
        parse_rules(text)


@pytest.mark.parametrize(
    ("path", "key_mode", "expected"),
    [
        ("/v1/models", None, "redacted"),
        ("/v1/files/1", None, "off"),
        ("/v1/messages", None, "full"),
        ("/v1/messages/count_tokens", None, "metadata"),
        # a key is stricter, or changes nothing
        ("/v1/models", "full", "redacted"),
        ("/v1/models", "metadata", "metadata"),
        ("/v1/files/1", "full", "off"),
        ("/v1/messages", "off", "off"),
    ],
)
def test_the_first_rule_counts_and_a_key_can_only_be_stricter(path: str, key_mode: str | None, expected: str) -> None:
    assert record_mode("redacted", RULES, path, key_mode) is Mode(expected)


def test_a_mode_that_is_none_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="everything"):
        record_mode("full", (), "/", "everything")
