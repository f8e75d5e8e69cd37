"""The proxy that everything of ours goes by: what `ccflare_egress_proxy` names, or one of mitmproxy's modes.

An option is no place for a password, since mitmweb and the process list show it: this one leads to a file or a program.
"""

from collections.abc import Iterable

from ccflare_core.errors import ConfigError, VaultError
from ccflare_core.http.egress import EgressProxy
from ccflare_core.secrets.references import read_secret

OPTION = "ccflare_egress_proxy"


def configured(text: str) -> EgressProxy | None:
    """What the option's text means; None if it is empty.

    Raises ConfigError if nothing, or no proxy, is where it leads. A program is run, which may take seconds.
    """
    if not text:
        return None
    try:
        return EgressProxy.parse(read_secret({OPTION: text}, OPTION) or "")
    except VaultError as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{OPTION} leads to no proxy: {error}; USER:PASSWORD@ may stand before its host") from None


def of_modes(modes: Iterable[str], auth: str | None) -> EgressProxy | None:
    """The proxy of the first of mitmproxy's modes that has one; `auth` is its option `upstream_auth`."""
    return next((proxy for mode in modes if (proxy := EgressProxy.of_mode(mode, auth)) is not None), None)
