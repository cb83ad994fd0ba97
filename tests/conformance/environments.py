"""Makes the environments of older Anki clients: `python -m tests.conformance.environments`.

Each is a virtual environment of its own in `.cache/clients`, with the versions pinned in `clients/`.
One that is there and complete is left as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.conformance.device import CLIENTS

PINS = Path(__file__).with_name("clients")


def main() -> None:
    for pins in sorted(PINS.glob("*.txt")):
        make(pins)


def make(pins: Path) -> None:
    folder = CLIENTS / pins.stem
    complete = folder / "pins.txt"
    if complete.exists() and complete.read_text() == pins.read_text():
        return
    print(f"making the environment of Anki {pins.stem}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "-r", pins], check=True)
    subprocess.run([python, "-c", "import anki.collection"], check=True)
    complete.write_text(pins.read_text())


if __name__ == "__main__":
    sys.exit(main())
