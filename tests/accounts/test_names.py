"""Names of accounts: letters of any one script, in one spelling, and nothing that looks like something else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.names import nearest_name, valid_name

CYRILLIC_A = "\u0430"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "max-1",
            "you@example.com",
            "me+max@example.org",
            "-_@.+",
            "a b",
            "1",
            "x" * 100,
            "-",
            "Müller",
            "Łódź 2",
            "Việt",
        ),
        *("работа", "δουλειά 1", "עבודה", "عمل", "काम", "งานประจำ", "ງານລຳ", "աշխատանք", "სამუშაო", "ስራ"),
        *("工作", "仕事メモ", "しごと", "サーバー", "時々", "업무", "業務 업무"),
    ],
)
def test_name_may_be_of_any_script(name: str) -> None:
    assert valid_name(name)
    assert nearest_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " a",
            "a ",
            "x" * 101,
            "a/b",
            "a\nb",
            "a\u200bb",
            "a\u202eb",
            "\x1b[31m",
            "a\tb",
            "a,b",
            "a\udcff",
            "max\u00a01",
            "a—b",
            "🙂",
        ),
        *(f"m{CYRILLIC_A}x", f"{CYRILLIC_A}\u03b1", "工作max", "업무しごと", "сервер one"),
        *("ｍａｘ", "𝐦𝐚𝐱", "ﬁne", "ª", "µ", "①", "x²", "\u0967"),
        "\u0301a",
        unicodedata.normalize("NFD", "Müller"),
    ],
)
def test_name_that_looks_like_another_is_refused(name: str) -> None:
    assert not valid_name(name)
    assert valid_name(nearest_name(name))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", "a-b"),
        (unicodedata.normalize("NFD", "Müller"), "Müller"),
        (f"m{CYRILLIC_A}x", "m-x"),
        ("/", "-"),
        ("🙂", "-"),
        ("业сα", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_nearest_name(text: str, name: str) -> None:
    assert nearest_name(text) == name


@given(st.text())
def test_nearest_name_is_valid_whatever_comes(text: str) -> None:
    name = nearest_name(text)
    assert valid_name(name)
    assert not valid_name(text) or name == text
