"""Pictures of timelines and limits, by matplotlib, which is an optional package."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from ccflare_cli.console import Refused
from ccflare_cli.output import local
from ccflare_core.program import with_extra
from ccflare_core.reports.limit_history import WindowPast
from ccflare_core.reports.traffic import By, Period, Traffic, label_format

_FORMATS = (".svg", ".png")
_LOOKS = {
    "svg.hashsalt": "ccflare",
    "text.parse_math": False,  # a name may hold a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_PANELS: tuple[tuple[str, Callable[[Traffic], float]], ...] = (
    ("Requests", lambda t: t.requests),
    ("Tokens in and out", lambda t: t.prompt_tokens + t.output_tokens),
    ("Cost, USD", lambda t: t.cost_usd),
    ("Errors and failovers", lambda t: t.errors + t.failovers),
)


def picture(text: str) -> Path:
    """A file for a picture, as the command line has it."""
    path = Path(text)
    if path.suffix.lower() not in _FORMATS:
        raise argparse.ArgumentTypeError("give a file that ends with .svg or .png")
    return path


def draw_timeline(groups: Sequence[Traffic], by: By, period: Period, title: str) -> Any:
    """A figure with bars of requests, tokens, cost and trouble along the period. Raises Refused."""
    figure, panels = _figure(title, len(_PANELS), period)
    times = [_time(group.keys[0] or "", by) for group in groups]
    for panel, (name, get) in zip(panels, _PANELS, strict=True):
        panel.bar(times, [get(group) for group in groups], width=0.9 * by.seconds / 86_400, align="edge")
        panel.set_ylabel(name)
    if not any(group.requests for group in groups):
        _say(panels[0], "No requests in this period.")
    return figure


def draw_windows(pasts: Sequence[WindowPast], by: By, period: Period, title: str) -> Any:
    """A figure with a line for each window of each account, a panel for each account. Raises Refused."""
    accounts = list(dict.fromkeys(past.account for past in pasts))
    figure, panels = _figure(title, max(len(accounts), 1), period)
    for panel, account in zip(panels, accounts, strict=False):
        for past in pasts:
            if past.account == account:
                times = [_time(at, by) for at in past.peaks]
                panel.plot(times, [100 * peak for peak in past.peaks.values()], marker=".", label=past.name)
        panel.set_ylabel(f"{account}, %")
        panel.set_ylim(0, max(105, panel.get_ylim()[1]))
        panel.legend(loc="upper left")
    if not any(past.peaks for past in pasts):
        _say(panels[0], "No limits were read in this period: each answer of an account brings them.")
    return figure


def draw_lines(
    times: Sequence[float], panels: Mapping[str, Sequence[tuple[str, Sequence[float]]]], period: Period, title: str
) -> Any:
    """A figure with a panel for each heading: lines with names, over times in epoch seconds. Raises Refused."""
    figure, axes = _figure(title, len(panels), period)
    moments = [local(at).replace(tzinfo=None) for at in times]
    for panel, (heading, lines) in zip(axes, panels.items(), strict=True):
        for name, values in lines:
            panel.plot(moments, values, marker=".", label=name)
        panel.set_ylabel(heading)
        panel.set_ylim(0, None if any(any(values) for _, values in lines) else 1)  # nothing here is below 0
    axes[0].legend(loc="best")
    if not times:
        _say(axes[0], "No requests in this period.")
    return figure


def _figure(title: str, panels: int, period: Period) -> tuple[Any, Sequence[Any]]:
    with _library("matplotlib").rc_context(_LOOKS):
        figure = _library("matplotlib.figure").Figure(figsize=(11, 1 + 2.2 * panels), layout="constrained")
        axes = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(title)
    axes[-1].tick_params(axis="x", rotation=30)
    axes[-1].set_xlim(*(local(at).replace(tzinfo=None) for at in period))
    return figure, axes


def _say(panel: Any, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, horizontalalignment="center")


def save(figure: Any, path: Path) -> None:
    """Write the figure. Raises Refused."""
    # Without a date and a version, the same figures give the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    try:
        with _library("matplotlib").rc_context(_LOOKS):
            figure.savefig(path, metadata=metadata)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror or error}.") from None


def _library(module: str) -> Any:
    """A module of matplotlib. Raises Refused if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise Refused(f"A plot needs matplotlib: {with_extra('plot')}.") from None


def _time(label: str, by: By) -> datetime:
    return datetime.strptime(label, label_format(by))  # noqa: DTZ007
