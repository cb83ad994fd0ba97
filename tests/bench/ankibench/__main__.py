"""Command line: python -m ankibench --official [--target ours=cmd:...]"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from . import floor, goals
from .report import Report
from .scenarios import ALL, Options
from .targets import Target


def arguments() -> argparse.Namespace:
    names = [*ALL, "floor"]
    parser = argparse.ArgumentParser(prog="ankibench", description=__doc__)
    parser.add_argument("--official", action="store_true", help="start and measure anki.syncserver")
    parser.add_argument("--ours", action="store_true", help="start and measure this repository's server")
    parser.add_argument("--target", action="append", default=[], metavar="SPEC", help=Target.__doc__)
    parser.add_argument("--users", type=Path, help="user:password lines, for URL targets")
    parser.add_argument("--scenarios", default=",".join(names), help="of: " + ", ".join(names))
    parser.add_argument("--repeats", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="smaller, under a minute")
    parser.add_argument("--json", type=Path, help="write all samples to this file")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ankibench-cache")
    parser.add_argument("--work", type=Path, help="folder for scratch files (default: temporary)")
    args = parser.parse_args()
    args.scenarios = args.scenarios.split(",")
    if unknown := set(args.scenarios) - set(names):
        parser.error(f"unknown scenarios: {', '.join(unknown)}")
    return args


def main() -> int:
    args = arguments()
    work = Path(tempfile.mkdtemp(prefix="ankibench-", dir=args.work))
    options = Options(args.cache, work, args.repeats or (1 if args.quick else 3), args.quick)
    users = []
    if args.users:
        lines = args.users.read_text().split()
        users = [(name, password) for name, _, password in (line.partition(":") for line in lines)]
    specs = ["official"] * args.official + ["ours"] * args.ours + args.target
    targets = [Target(spec, work, users) for spec in specs]
    if not targets and args.scenarios != ["floor"]:
        print("give --official, --ours and/or --target", file=sys.stderr)
        return 2
    report = Report([t.name for t in targets])
    begin = time.perf_counter()
    try:
        for name in args.scenarios:
            if name == "floor":
                for repeat in range(options.repeats):
                    for sample in floor.run(options, repeat):
                        report.add("floor", "machine", sample)
            else:
                run_scenario(name, targets, options, report)
            print(report.table(name) + "\n", flush=True)
            if args.json:
                report.write(args.json, {"argv": sys.argv[1:]})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if args.official and args.ours:
        print(goals.summary(report))
    print(f"took {time.perf_counter() - begin:.0f} s")
    return 0


def run_scenario(name: str, targets: list[Target], options: Options, report: Report) -> None:
    """Targets take turns within each repeat, and the order is reversed every time."""
    scenarios = [ALL[name](target, options) for target in targets]
    try:
        for scenario in scenarios:
            scenario.setup()
        for repeat in range(scenarios[0].repeats()):
            for scenario in scenarios[:: -1 if repeat % 2 else 1]:
                for sample in scenario.run(repeat):
                    report.add(name, scenario.target.name, sample)
    finally:
        for scenario in scenarios:
            scenario.teardown()


if __name__ == "__main__":
    sys.exit(main())
