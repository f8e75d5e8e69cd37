"""Hooks run on the spot: what mitmproxy's server does with a task each, done inside our layer when nothing awaits.

For every hook mitmproxy walks all addons under a context manager each, in a task of its own, and does the same again
for `update`. On small requests that is 40 % of the time. Here the handlers of a hook are looked up once, and called
directly if all of them are plain functions. Order, `AddonHalt`, error logging and intercepted flows stay as they are.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mitmproxy import exceptions, flow, hooks
from mitmproxy.addonmanager import safecall, traverse
from mitmproxy.proxy import commands

from ccflare_mitm.host.addon_changes import AddonChanges

logger = logging.getLogger("ccflare")

type Handler = Callable[..., Any]


@dataclass
class ResumeHook(commands.StartHook):
    """Has no handlers: mitmproxy's server waits with its completion until an intercepted flow is resumed."""

    flow: flow.Flow
    name = "ccflare_wait_for_resume"  # its own would be `resume`, which other addons have as a command


class HookRunner:
    """Calls the handlers of a hook in the order of mitmproxy's addon manager."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._changes = AddonChanges()
        self._handlers: dict[str, list[Handler] | None] = {}

    def run(self, hook: hooks.Hook) -> bool:
        """Run `hook` and the `update` that follows it; False, with nothing done, if one of the handlers awaits."""
        known = self._handlers
        if self._changes.are_there(self._manager):
            known.clear()
        if hook.name not in known:
            known[hook.name] = self._find(hook.name)
        if "update" not in known:
            known["update"] = self._find("update")
        handlers, updates = known[hook.name], known["update"]
        if handlers is None or updates is None:
            return False
        subject = subject_of(hook)
        call(handlers, subject)
        if updates and isinstance(subject, flow.Flow):
            call(updates, [subject])
        return True

    def _find(self, name: str) -> list[Handler] | None:
        """The handlers of this hook; None if one of them is a coroutine function."""
        found = [getattr(addon, name, None) for addon in traverse(self._manager.chain)]
        handlers = [handler for handler in found if callable(handler)]
        return None if any(map(inspect.iscoroutinefunction, handlers)) else handlers


def subject_of(hook: hooks.Hook) -> Any:
    """What the hook is about: mitmproxy's proxy hooks have one argument each."""
    return next(iter(vars(hook).values())) if vars(hook) else None


def call(handlers: list[Handler], subject: Any) -> None:
    """Call them one after the other; as in mitmproxy, one that raises is logged and the next one is called."""
    for handler in handlers:
        try:
            handler(subject)
        except exceptions.AddonHalt:
            return
        except exceptions.OptionsError as error:
            logger.error("Addon error: %s", error)
        except Exception:
            with safecall():  # mitmproxy's own report of it
                raise
