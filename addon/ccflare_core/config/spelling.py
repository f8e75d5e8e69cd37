"""Finds misspelt options and variables of ccflare, and says what was meant.

mitmproxy keeps an option that it does not know without a word, so a misspelt one would just have no effect.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

from ccflare_core.config.options import ENCRYPTION_KEY, OPTIONS, VARIABLES

_NAMES = tuple(option.name for option in OPTIONS)
_OPTION_OF = {option.environment.lower(): option.name for option in OPTIONS if option.environment}
_KNOWN_VARIABLES = (*(name for name, _ in VARIABLES), *(o.environment for o in OPTIONS if o.environment))
_OUR_VARIABLES = {name.lower(): name for name in _KNOWN_VARIABLES if name.startswith("ccflare_")}


def unknown(names: Iterable[str]) -> list[str]:
    """A sentence for each name that was meant for us but is no option; mitmproxy's own names pass."""
    return [
        f"{name}: there is no such option; {_option_advice(name)}"
        for name in names
        if name not in _NAMES and _is_meant_for_us(name)
    ]


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The same for variables; other programs have theirs, so only names that start with ccflare_ count."""
    problems = []
    for name, value in environ.items():
        meant = _OUR_VARIABLES.get(name.lower())
        # Where names have no case (Windows), ours are listed in capitals and found under both spellings.
        is_known = meant is not None and environ.get(meant) == value
        if name.lower().startswith("ccflare_") and not is_known:
            problems.append(f"{name}: there is no such variable; {_variable_advice(name)}")
    return problems


def _is_meant_for_us(name: str) -> bool:
    """Whether `name` starts as ours do, or reads almost like one of ours (`cclare_upstream`)."""
    lower = name.lower()
    return lower.startswith("ccflare") or bool(difflib.get_close_matches(lower, _NAMES, 1, 0.88))


def _option_advice(name: str) -> str:
    if name.lower() == ENCRYPTION_KEY.lower():
        return f"set the variable {ENCRYPTION_KEY}, or name a file in ccflare_key_file"
    meant = _OPTION_OF.get(name.lower()) or _closest(name, _NAMES)
    return f"did you mean {meant}?" if meant else "the README lists all of them"


def _variable_advice(name: str) -> str:
    lower = name.lower()
    if lower in _NAMES:
        return f"write {lower} in mitm-config.yaml or use --set {lower}=..."
    meant = _OUR_VARIABLES.get(lower) or _closest(name, _OUR_VARIABLES.values())
    return f"did you mean {meant}?" if meant else f"allowed are {', '.join(sorted(_OUR_VARIABLES.values()))}"


def _closest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that reads most like `name`, compared without the prefix that all of them share."""
    by_noun = {entry.lower().removeprefix("ccflare_"): entry for entry in known}
    noun = re.sub("^cc?f?lare[_-]?", "", name.lower()).replace("-", "_")
    found = difflib.get_close_matches(noun, by_noun, 1)
    return by_noun[found[0]] if found else None
