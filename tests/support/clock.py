"""The clock that tests set."""

from __future__ import annotations


class Clock:
    """Stands still until a test moves it. Called, it gives the milliseconds since 1970."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
