"""What variables say. Those of the original ccflare have names that other programs use as well, for other things. Pure.

conda sets HOST to `x86_64-conda-linux-gnu`, and the shell of some OAuth application has a CLIENT_ID. Such a variable
must neither stop the start nor end every login, so what is meant for somebody else is left out, and told.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from ccflare_core.config.option import Option
from ccflare_core.config.options import DEBUG, LISTEN, OPTIONS
from ccflare_core.config.spelling import unknown_variables
from ccflare_core.errors import ConfigError
from ccflare_core.http.addresses import Address

OURS: Final = "ccflare_"
"""How the names begin that nobody else has."""
HOST: Final = "HOST"
_TELLING: Final = 4
"""So many characters of a value in a sentence are that value, and no accident."""
_NEEDS_COMPANY: Final = frozenset({"CLIENT_ID", "ALLOWED_ORIGINS"})
"""What another program's would do harm as: end every login, or open the proxy to a web page."""


class Environment(NamedTuple):
    """What the variables of a process say."""

    values: dict[str, object]
    """By option."""
    variables: dict[str, str]
    """Which variable said that, by option."""
    foreign: tuple[str, ...]
    """A clause for each variable that is taken for another program's."""


def read_environment(environ: Mapping[str, str]) -> Environment:
    """What counts of it. An empty variable sets nothing.

    ConfigError with all mistakes, misspelt ccflare_... names among them. What does not fit under a name that others use
    is a mistake only beside a variable of ours, by which somebody means ccflare.
    """
    values: dict[str, object] = {}
    variables: dict[str, str] = {}
    foreign: list[str] = []
    problems = unknown_variables(environ)
    means_us = has_ours(environ)
    for option, name, text in _set(environ):
        if why := _foreign(name, text, means_us=means_us):
            foreign.append(f"{name} {why}")
            continue
        try:
            values[option.name] = option.read(text)
            variables[option.name] = name
        except ValueError as error:
            if means_us or name.startswith(OURS):
                problems.append(f"{name}: {error}")
            else:
                foreign.append(f"{name} is nothing that {option.name} can be")
    if problems:
        raise ConfigError(*problems)
    variables.pop(DEBUG.name, None)
    if values.pop(DEBUG.name, False):
        values["ccflare_log_level"], variables["ccflare_log_level"] = "debug", DEBUG.name
    return Environment(values, variables, tuple(foreign))


def _set(environ: Mapping[str, str]) -> Iterator[tuple[Option, str, str]]:
    """Each option whose variable is set, that variable and its text."""
    for option in (*OPTIONS, *LISTEN, DEBUG):
        if option.environment and (text := environ.get(option.environment, "").strip()):
            yield option, option.environment, text


def has_ours(environ: Mapping[str, str]) -> bool:
    """Whether a variable is set whose name is ours alone."""
    return any(name.lower().startswith(OURS) and text.strip() for name, text in environ.items())


def of_others(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for a program that we start: in ours are keys and passphrases, which are not its business."""
    return {name: text for name, text in environ.items() if not name.startswith(OURS)}


def told(foreign: tuple[str, ...]) -> str:
    """One sentence about all of them; "" if there are none."""
    if not foreign:
        return ""
    how = "name the option itself, in mitm-config.yaml or by --set, to have it count"
    return f"not counted, since other programs use the name too: {'; '.join(foreign)}; {how}"


def explained(sentence: str, said: Environment) -> str:
    """The sentence with the variable that gave it the value which it rejects."""
    for option, variable in said.variables.items():
        if variable in sentence:
            continue
        if found := re.search(rf"\b{option}\b", sentence):
            return f"{sentence[: found.end()]} (variable {variable}){sentence[found.end() :]}"
        value = said.values[option]
        if isinstance(value, str) and len(value) >= _TELLING and value in sentence:
            return f"{sentence.rstrip('.')} (variable {variable})"
    return sentence


def all_explained(sentences: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """The same of all of them; as they are where the variables themselves have mistakes, which are told by name."""
    try:
        said = read_environment(environ)
    except ConfigError:
        return list(sentences)
    return [explained(sentence, said) for sentence in sentences]


def _foreign(name: str, text: str, *, means_us: bool) -> str:
    """Why this variable is not meant for us; "" if it may be."""
    if name == HOST and text.lower() != "localhost" and Address.parse(text) is None:
        return "is neither an IP address nor localhost"
    return (
        "stands beside no variable whose name begins with ccflare_" if name in _NEEDS_COMPANY and not means_us else ""
    )
