"""`make fuzz`: many inputs against a live server of two workers.

python -m tests.fuzz [inputs=100000] [seed]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.campaign import run

GROWTH_MIB = 200
"""Of all processes, from the first tenth of the inputs on: caches and pools have filled by then."""


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = sys.argv[2] if len(sys.argv) > 2 else str(int(time.time()))
    print(f"{count} inputs, seed {seed}", flush=True)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), seed, count)
    memory = report.memory_mib
    early = memory[len(memory) // 10 : len(memory) // 5] or memory
    print(f"sent {sum(report.sent.values())} in {time.monotonic() - started_s:.0f} s: {dict(report.sent)}")
    print(f"answers by status: {dict(sorted(report.statuses.items()))}")
    print(
        f"memory: {memory[0]} MiB at first, {max(early)} early, {max(memory)} at most, {memory[-1]} at last"
    )
    print(f"descriptors: {report.descriptors[0]} at first, {max(report.descriptors)} at most")
    if memory[-1] - max(early) > GROWTH_MIB:
        report.faults.append("memory grows")
    print("\n".join(report.faults[:50]) or "no fault")
    return min(1, len(report.faults))


if __name__ == "__main__":
    sys.exit(main())
