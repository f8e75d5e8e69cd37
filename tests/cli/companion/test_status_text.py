"""A session's state as one line."""

import pytest

from ccflare_cli.companion.status_text import FIELDS, bar, filled, line
from ccflare_core.reports.session_state import Limit, SessionState
from history import NOON, at_local

STATE = SessionState(
    "max-1", {"5h": Limit(0.62, at_local(24, 14, 20)), "7d": Limit(0.93, None)}, 2, 3, 1.234, 2, ("max-2 needs login",)
)


def test_line_has_all_that_is_known() -> None:
    assert line(STATE, NOON, width=200, coloured=False) == (
        "max-1 · ! max-2 needs login · 5h ███░░ 62% → 14:20 · 7d ████░ 93% · moved 2× · $1.23 · 2 of 3 free"
    )


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, "max-1 · ! max-2 needs login · 5h ███░░ 62% → 14:20"),
        (45, "max-1 · 5h ███░░ 62% → 14:20"),
        (10, "max-1"),
        (3, "max"),
    ],
)
def test_line_leaves_out_what_does_not_fit(width: int, expected: str) -> None:
    assert (
        line(STATE._replace(limits={"5h": STATE.limits["5h"]}, moved=0, cost=None), NOON, width=width, coloured=False)
        == expected
    )


def test_colours_tell_how_full_a_window_is() -> None:
    shown = line(STATE._replace(alerts=()), NOON, width=200, coloured=True)

    assert "\x1b[32m5h ███░░ 62% → 14:20\x1b[0m" in shown
    assert "\x1b[31m7d ████░ 93%\x1b[0m" in shown


def test_before_the_first_answer_the_pool_is_told_of() -> None:
    assert line(SessionState(None, {}, 1, 2, None, 0, ()), NOON, width=80, coloured=False) == "ccflare · 1 of 2 free"


def test_without_a_record_there_is_a_line_all_the_same() -> None:
    assert line(None, NOON, width=80, coloured=True) == "ccflare: no record of it here"


def test_template_has_every_name_and_leaves_others() -> None:
    every = " ".join(f"{{{name}}}" for name in FIELDS)

    assert filled(every, STATE, NOON) == "max-1 ███░░ 62% 14:20 ████░ 93%  2 3 $1.23 2 max-2 needs login"
    assert filled("{account.__class__} {other} {", STATE, NOON) == "{account.__class__} {other} {"
    assert filled("[{account}]", None, NOON) == "[]"


def test_names_cannot_steer_the_terminal() -> None:
    evil = STATE._replace(account="a\x1b]0;x\x07\nb", alerts=("x\x1b[2J",))

    assert "\x1b" not in line(evil, NOON, width=200, coloured=False)
    assert "\x1b" not in filled("{account}{alerts}", evil, NOON)


@pytest.mark.parametrize(
    ("used", "shown"),
    [(0.0, "░░░░░"), (0.01, "█░░░░"), (0.5, "██░░░"), (0.99, "████░"), (1.0, "█████"), (1.2, "█████")],
)
def test_bar_is_empty_only_for_nothing_and_full_only_for_all(used: float, shown: str) -> None:
    assert bar(used) == shown
