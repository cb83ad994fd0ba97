"""Prints what metrics cost: processor time of a sync with them, beside a server that has none.

python -m tests.bench.watching [--rounds 40] [--syncs 25] [--cache .cache/bench]

Both servers run at the same time, with one worker each, and take turns of a few syncs of ten reviews; within
a pair of turns the order changes. The ratio is that of each pair, so that what else the machine does falls on
both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from tests.bench.ankibench import datasets
from tests.bench.ankibench.metering import Tree
from tests.bench.spread import REVIEWS, joined
from tests.support import servers

WARM_SYNCS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--syncs", type=int, default=25)
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"))
    wanted = parser.parse_args()
    light = datasets.collection("small", wanted.cache)
    plain = {"ANKISYNCD_WORKERS": "1"}
    watched = plain | {"ANKISYNCD_METRICS_PORT": str(servers.free_port())}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        turns = {}
        for name, settings in (("without", plain), ("with", watched)):
            server = stack.enter_context(servers.serving(servers.OURS, Path(folder, name), 1, settings))
            device = joined(server.url, server.next_user(), light)
            for _ in range(WARM_SYNCS):
                device.push_reviews(REVIEWS)
            turns[name] = device, Tree(server.process.pid)
        costs: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(wanted.rounds):
            for name in sorted(turns, reverse=number % 2 == 0):
                device, tree = turns[name]
                before_s = tree.cpu()
                for _ in range(wanted.syncs):
                    device.push_reviews(REVIEWS)
                costs[name].append((tree.cpu() - before_s) / wanted.syncs * 1000)
    ratios = [cost / base for cost, base in zip(costs["with"], costs["without"], strict=True)]
    for name, found in costs.items():
        print(f"{name:8} {statistics.median(found):6.3f} ms of CPU a sync")
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"ratio    {middle:6.3f} (quartiles {low:.3f} and {high:.3f}, {len(ratios)} pairs)")


if __name__ == "__main__":
    main()
