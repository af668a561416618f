"""Progress bars where tqdm is installed; silence where it is not."""

import sys

try:
    import tqdm
except ImportError:
    tqdm = None


def available() -> bool:
    return tqdm is not None


class Progress:
    """A bar over `total` units, for a with statement."""

    def __init__(self, total: int, desc: str):
        # None: tqdm itself stays silent where standard error is no terminal.
        self._bar = tqdm and tqdm.tqdm(total=total, desc=desc, leave=False, disable=None, file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.close()

    def to(self, position: int, note: str = "") -> None:
        """Moves the bar to `position`."""
        if self._bar:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(position - self._bar.n)
