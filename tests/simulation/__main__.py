"""`python -m tests.simulation --first 0 --seeds 5000`: runs many seeds, and says which have failed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from storage.collection.engine.codec import Codec
from tests.simulation.world import Template, make_template, simulate


def fast_folder() -> str | None:
    """Memory instead of a disk, where there is some."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@cache
def template() -> Template:
    with tempfile.TemporaryDirectory() as folder:
        return make_template(Path(folder), Codec())


def run(seed: int) -> tuple[int, str]:
    """The seed, and what went wrong or an empty string."""
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        try:
            simulate(seed, template(), Path(folder)).close()
        except BaseException:  # noqa: BLE001 - whatever it is, it is reported
            return seed, traceback.format_exc()
    return seed, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    wanted = parser.parse_args()
    began, failed = time.monotonic(), []
    with ProcessPoolExecutor(wanted.processes) as pool:
        for seed, trouble in pool.map(run, range(wanted.first, wanted.first + wanted.seeds), chunksize=8):
            done = seed + 1 - wanted.first
            if done % 250 == 0:
                print(f"{done} seeds, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
            if trouble:
                failed.append(seed)
                print(f"--- seed {seed}\n{trouble}", flush=True)
    seconds = time.monotonic() - began
    print(f"{wanted.seeds} seeds from {wanted.first} in {seconds:.0f} s, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
