"""Numbers in words, German and English: every pair is unambiguous, and the German half says 21 as "one-and-twenty", so
that the translation has to change the order.

Source: the package num2words (https://github.com/savoirfairelinux/num2words), LGPL-2.1-or-later; imported, not shipped.
"""

from pathlib import Path

from .source import Source

PAIRS_FILE = "pairs.tsv"


class _Package(Source):
    def present(self, data: Path | None = None) -> bool:
        """num2words is imported, so that a wheel in a folder is not enough."""
        return self.folder() is not None or (data is not None and (data / PAIRS_FILE).is_file())


SOURCE = _Package("numbers in words", "num2words, LGPL-2.1-or-later", "num2words", "pip install num2words")


def load(limit: int, data: Path | None = None, source: str = "de", target: str = "en") -> list[tuple[str, str]]:
    """The numbers 0 to limit - 1 in both languages, as num2words names them.

    A file pairs.tsv in the folder `data` is taken instead: a pair per line, UTF-8, with a tab between its halves; of
    these, the first `limit`. Raises Missing if neither that file nor num2words is there."""
    if data is not None and (data / PAIRS_FILE).is_file():
        return read_pairs(data / PAIRS_FILE)[:limit]
    try:
        from num2words import num2words
    except ImportError:
        raise SOURCE.missing() from None
    return [(num2words(number, lang=source), num2words(number, lang=target)) for number in range(limit)]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Raises ValueError for a line that is not two texts with a tab between them."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        halves = line.split("\t")
        if len(halves) != 2 or not all(half.strip() for half in halves):
            raise ValueError(f"{path}, line {number}: expected two texts with a tab between them")
        pairs.append((halves[0].strip(), halves[1].strip()))
    return pairs
