"""English text for the examples: the language reference that every CPython carries, or a file of one's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics


@dataclass(frozen=True)
class Corpus:
    """A text in two parts: `train` to learn from and `held_out`, its last tenth, to measure on."""

    name: str
    train: str
    held_out: str

    @property
    def alphabet(self) -> str:
        return "".join(sorted(set(self.train + self.held_out)))

    @property
    def sha256(self) -> str:
        """The hash of the whole text: it differs between versions of Python, and figures hold for one text only."""
        return hashlib.sha256((self.train + self.held_out).encode()).hexdigest()


def without_repeated_paragraphs(text: str) -> str:
    """Keeps the first of any paragraphs that differ in white space only.

    A fifth of Python's reference is repeated under several topics; a repeated paragraph that lies on both sides of the
    split would be held out in name only.
    """
    first_of_its_words: dict[tuple[str, ...], str] = {}
    for paragraph in text.split("\n\n"):
        words = tuple(paragraph.split())
        if words:
            first_of_its_words.setdefault(words, paragraph.strip("\n"))
    return "\n\n".join(first_of_its_words.values()) + "\n"


def load(path: Path | None = None, held_out_fraction: float = 0.1) -> Corpus:
    """Reads the UTF-8 text file `path`, or Python's own language reference if there is none, and splits it.

    Raises OSError or UnicodeDecodeError for a file that cannot be read.
    """
    if path is None:
        name = "pydoc_data.topics"
        text = "\n\n".join(topics[topic] for topic in sorted(topics))
    else:
        name = path.name
        text = path.read_text(encoding="utf-8")
    text = without_repeated_paragraphs(text)
    split = round(len(text) * (1 - held_out_fraction))
    return Corpus(name, text[:split], text[split:])
