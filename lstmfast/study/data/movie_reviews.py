"""Sentences of film reviews, each with the mean of some twenty people's ratings from -4 (bad) to 4 (good).

Source: C. Hutto, E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014; the data is part of the source distribution of the package vaderSentiment (the wheel does not have it).
Licence: the package's is MIT; the sentences are those of reviewers and are quoted there, so they must not be
distributed from here, and are read from the download where it lies.
"""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .source import Source

FILE = "movieReviewSnippets_GroundTruth.txt"


@dataclass(frozen=True)
class _SourceDistribution(Source):
    """A file in an archive in an archive in a folder: what `pip download --no-binary` leaves."""

    archive: str = ""

    def present(self, data: Path | None = None) -> bool:
        return data is not None and ((data / FILE).is_file() or self._find(data) is not None)

    def read(self, path: str, data: Path | None = None) -> bytes:
        if data is not None and (data / path).is_file():
            return (data / path).read_bytes()
        outer = self._find(data) if data is not None else None
        if outer is None:
            raise self.missing()
        try:
            with (
                tarfile.open(outer) as package,
                tarfile.open(fileobj=_member(package, self.archive)) as archive,
                _member(archive, path) as file,
            ):
                return file.read()
        except KeyError as error:
            raise ValueError(f"{outer} does not hold {error.args[0]}") from None

    def _find(self, data: Path) -> Path | None:
        # An index may normalise a distribution's name to lower case.
        return max(data.glob("[vV]ader[sS]entiment-*.tar.gz"), default=None)


def _member(archive: tarfile.TarFile, name: str) -> io.BufferedReader:
    """The file of that name, in whatever folder of the archive. Raises KeyError if there is none."""
    for member in archive:
        if member.isfile() and member.name.rpartition("/")[2] == name:
            return archive.extractfile(member)
    raise KeyError(name)


SOURCE = _SourceDistribution(
    title="film reviews",
    licence="vaderSentiment's source distribution, MIT; the sentences are quotations",
    install="pip download --no-deps --no-binary :all: -d DATA vaderSentiment, then --data DATA",
    archive="hutto_ICWSM_2014.tar.gz",
)


def load(data: Path | None = None) -> list[tuple[str, float]]:
    """(sentence, mean rating), each sentence once, in the file's order. Raises Missing without the download."""
    ratings: dict[str, float] = {}
    for line in SOURCE.read(FILE, data).decode("utf-8", errors="replace").splitlines():
        if line.strip():
            _, rating, sentence = line.split("\t", 2)
            ratings.setdefault(" ".join(sentence.split()), float(rating))
    return list(ratings.items())
