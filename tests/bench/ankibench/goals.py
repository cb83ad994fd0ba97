"""What is to be reached beside the official server, and whether it is."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .report import Report
from .scenarios import RATES


@dataclass(frozen=True)
class Goal:
    """A factor against the official server to reach, or where `most` is given a figure to stay below."""

    text: str
    scenario: str
    metric: str
    unit: str
    factor: float = 0.0
    most: float = 0.0


GOALS = (
    Goal("large real upload faster", "full", "large upload", "s", factor=3.5),
    Goal("large upload, memory growth", "full", "large upload rss growth", "MiB", most=64),
    Goal("large download not slower", "full", "large download", "s", factor=1.0),
    Goal("raw sync of 10 reviews, large, faster", "methods", "large whole sync", "ms", factor=3.0),
    Goal(
        "32 users beside a transfer, p99", "concurrency", "32 users + 1 big transfer p99", "ms", factor=10.0
    ),
    Goal(
        "32 users beside a transfer, rate", "concurrency", "32 users + 1 big transfer", "syncs/s", factor=2.0
    ),
    Goal("32 users alone, rate", "concurrency", "32 users", "syncs/s", factor=0.8),
    Goal("small media files up, rate", "media", "2000 small upload", "files/s", factor=0.8),
    Goal("small media files down, rate", "media", "2000 small download", "files/s", factor=0.8),
    Goal("large media files up, rate", "media", "50 large upload", "files/s", factor=0.8),
    Goal("large media files down, rate", "media", "50 large download", "files/s", factor=0.8),
    Goal("no-op sync, medium, at most 3x", "incremental", "medium no-op", "ms", factor=1 / 3),
    Goal("no-op sync, large, at most 3x", "incremental", "large no-op", "ms", factor=1 / 3),
)


@dataclass(frozen=True)
class Check:
    """A figure that is to be at most or at least so much."""

    text: str
    found: float
    most: float = 0.0
    least: float = 0.0

    @property
    def is_reached(self) -> bool:
        return self.found <= self.most if self.most else self.found >= self.least


def checked(checks: list[Check]) -> str:
    """The figures of `make bench-spread` beside what they are to be."""
    lines = ["== goals ==", f"{'goal':44} {'found':>9} {'wanted':>9}"]
    for check in checks:
        wanted = f"<= {check.most:g}" if check.most else f">= {check.least:g}"
        verdict = "reached" if check.is_reached else "NOT REACHED"
        lines.append(f"{check.text:44} {check.found:9.2f} {wanted:>9}  {verdict}")
    return "\n".join(lines) + "\n"


def summary(report: Report) -> str:
    lines = ["== goals ==", f"{'goal':44} {'official':>10} {'ours':>10} {'found':>9} {'wanted':>9}"]
    for goal in GOALS:
        found = report.samples.get((goal.scenario, goal.metric, goal.unit), {})
        if "official" not in found or "ours" not in found:
            lines.append(f"{goal.text:44} {'not measured':>43}")
            continue
        official, ours = (statistics.median(found[name]) for name in ("official", "ours"))
        lines.append(f"{goal.text:44} {official:10.4g} {ours:10.4g} {_verdict(goal, official, ours)}")
    return "\n".join(lines) + "\n"


def _verdict(goal: Goal, official: float, ours: float) -> str:
    if goal.most:
        reached = ours <= goal.most
        shown = f"{ours:9.4g} {'<= ' + format(goal.most, 'g'):>9}"
    else:
        factor = ours / official if goal.unit in RATES else official / ours
        reached = factor >= goal.factor
        shown = f"{factor:8.2f}x {'>= ' + format(goal.factor, '.3g') + 'x':>9}"
    return f"{shown}  {'reached' if reached else 'NOT REACHED'}"
