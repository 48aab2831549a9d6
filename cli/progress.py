"""Show the progress of long work on stderr: a bar on a terminal, lines elsewhere."""

import sys
import time

from .text import say

LINE_SECONDS = 10.0  # between two lines if stderr is not a terminal


class Bar:
    """A tqdm bar on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        """Begin at 0 of `total`."""
        from tqdm import tqdm

        self._plain = not sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=what, unit=f" {unit}", disable=self._plain, dynamic_ncols=True, smoothing=0.1)
        self._what, self._total, self._unit = what, total, unit
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def at(self, done: int, note: str = "") -> None:
        """Show that `done` units are finished."""
        if self._plain:
            # work done by an earlier run does not count in this run's rate
            self._first = done if self._first is None else self._first
            now = time.monotonic()
            if now - self._last >= LINE_SECONDS and done:
                self._last = now
                rate = (done - self._first) / (now - self._start)
                left = f", {(self._total - done) / rate:.0f} s left" if self._total and rate else ""
                say(f"{self._what}: {done}{f' of {self._total}' if self._total else ''} {self._unit}, {_rate(rate)}{left}{note and ', ' + note}")
            return
        if self._first is None:
            self._first = done
            self._bar.initial = self._bar.n = done
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def _rate(a_second: float) -> str:
    return f"{a_second:.1f}/s" if a_second >= 0.1 or not a_second else f"{1 / a_second:.0f} s each"
