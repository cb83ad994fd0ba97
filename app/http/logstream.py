"""Where log lines go: a descriptor that may be full, closed at the other end, or not be read any more.

Writing never raises and never blocks: a log that cannot be written must not fail or hold up a request.
"""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Callable

from gevent.monkey import get_original

_PIECE_BYTES = 4096
"""Linux calls a pipe writable if it takes so much at once without blocking."""


class LogStream:
    """Writes lines to a descriptor; counts those that it cannot write, and says so once it can again."""

    def __init__(self, descriptor: int, note_lost: Callable[[int], bytes]) -> None:
        """`note_lost` makes the line that tells how many lines were lost."""
        self._descriptor = descriptor
        self._note_lost = note_lost
        # gevent's own would switch to other greenlets in the middle of a line.
        self._new_poll: Callable[[], select.poll] = get_original("select", "poll")
        self._can_block = _can_block(descriptor)
        self._is_cut = False
        self.lost = 0

    def write(self, line: bytes) -> None:
        """Write a line with its newline, or count it as lost."""
        if self.lost:
            if not self._write(self._note_lost(self.lost)):
                self.lost += 1
                return
            self.lost = 0
        if not self._write(line):
            self.lost += 1

    def _write(self, line: bytes) -> bool:
        start = 0
        if self._is_cut:
            line = b"\n" + line
        try:
            for start in range(0, len(line), _PIECE_BYTES):
                piece = line[start : start + _PIECE_BYTES]
                if self._can_block and not self._is_writable():
                    self._is_cut |= start > 0
                    return False
                written = os.write(self._descriptor, piece)
                if written < len(piece):  # a disk that became full
                    self._is_cut = True
                    return False
        except (OSError, ValueError):
            self._is_cut |= start > 0
            return False
        self._is_cut = False
        return True

    def _is_writable(self) -> bool:
        poll = self._new_poll()  # one for all could not be used by several threads
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))


def _can_block(descriptor: int) -> bool:
    """Whether writing may wait: to a pipe that is not read, or a terminal that is stopped."""
    try:
        mode = os.fstat(descriptor).st_mode
        return not (stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(descriptor)))
    except OSError:
        return False  # it cannot be written either


class LogText(io.TextIOBase):
    """A text stream in place of sys.stderr, for what Python and libraries print there."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        """As a file's."""
        return True

    def write(self, text: str) -> int:
        """Write at once; never raises."""
        self._stream.write(text.encode("utf-8", "backslashreplace"))
        return len(text)


def open_standard_descriptors() -> None:
    """Open /dev/null in place of standard descriptors that are closed.

    Otherwise the next file or socket that is opened gets such a number, and what is printed goes there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
