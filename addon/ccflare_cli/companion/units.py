"""What the system is told of the service: a unit for systemd, an agent for launchd. Pure."""

import plistlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "ccflare"
MARK = "Written by `ccflare service install`"
"""By this a file is known as ours."""
_UNSAFE = frozenset("\"'\\")
"""What systemd takes in the words of a command, but not in the path of the program itself."""
_PLAIN = re.compile(r"[A-Za-z0-9_/.,:@+=-]+")

_UNIT = """\
# {mark}, which writes it anew: changes of yours belong into `systemctl --user edit {name}`.
[Unit]
Description=ccflare, a proxy for Claude accounts
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec=5
TimeoutStopSec={stop}
UMask=0077
LimitCORE=0

# What a unit of a user can have without a namespace of its own, which many systems do not give to users: with
# ProtectSystem or PrivateTmp it would not start there. A bounding set of capabilities takes rights that users lack.
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, slots=True)
class Service:
    """What is to be started, with which variables, and how long a stop may take."""

    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: int


def systemd_unit(service: Service) -> bytes:
    """A unit of the user's own manager."""
    variables = (f"Environment={_quoted(f'{name}={value}')}\n" for name, value in service.environment.items())
    program, *words = service.command if not _UNSAFE & set(service.command[0]) else ["/usr/bin/env", *service.command]
    # In the program's own path systemd replaces no variables.
    command = " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in words)])
    text = _UNIT.format(
        mark=MARK, name=NAME, command=command, environment="".join(variables), stop=service.stop_seconds
    )
    return text.encode()


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return escaped if _PLAIN.fullmatch(word) else f'"{escaped}"'


def launch_agent(service: Service, log: Path) -> bytes:
    """An agent of the user's own launchd, which writes what the proxy says to `log`."""
    agent = {
        "Label": NAME,
        "ProgramArguments": list(service.command),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": service.stop_seconds,
        "Umask": 0o077,
        "HardResourceLimits": {"Core": 0},
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    head, _, rest = plistlib.dumps(agent, sort_keys=False).partition(b"\n")
    return head + f"\n<!-- {MARK}, which writes it anew. -->\n".encode() + rest
