"""The Bible in English and Spanish, verse by verse: 31,000 pairs of sentences that mean the same.

Source: the Debian packages sword-text-kjv (King James Version) and sword-text-sparv (Reina-Valera of 1909), made from
https://ebible.org/details.php?id=eng-kjv2006 and ?id=spaRV1909. Both texts are in the public domain (in the United
Kingdom printing the King James Version is a privilege of the Crown); Debian's packaging is under GPL-2+.

They are in the zText format of the SWORD project (https://crosswire.org/sword): each testament is compressed in blocks
(.bzz), with an index of the blocks (.bzs) and one of the verses (.bzv), whose entries stand in the same order in all
texts with the same chapters and verses.
"""

import html
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .source import Source

MODULES = {"en": "engKJV2006eb", "es": "spaRV1909eb"}
INSTALLED = "usr/share/sword/modules/texts/ztext"


@dataclass(frozen=True)
class _Modules(Source):
    def present(self, data: Path | None = None) -> bool:
        return all(self.module(language, data) is not None for language in MODULES)

    def module(self, language: str, data: Path | None = None) -> Path | None:
        """The module's folder: in `data`, in a package unpacked there, or installed."""
        roots = [Path("/") / INSTALLED] if data is None else [data, data / INSTALLED, Path("/") / INSTALLED]
        folders = (root / MODULES[language] for root in roots)
        return next((folder for folder in folders if (folder / "nt.bzs").is_file()), None)


SOURCE = _Modules(
    title="Bible in English and Spanish",
    licence="public domain",
    install="apt install sword-text-kjv sword-text-sparv, or unpack both with dpkg -x PACKAGE.deb DATA and --data DATA",
)


def load(language: str, data: Path | None = None) -> dict[tuple[str, int], str]:
    """The verses of "en" or "es" by testament and place. Raises Missing without the package."""
    folder = SOURCE.module(language, data)
    if folder is None:
        raise SOURCE.missing()
    verses = ((key, without_markup(text)) for key, text in read_module(folder))
    return {key: text for key, text in verses if text}


def pairs(source: str = "es", target: str = "en", data: Path | None = None) -> list[tuple[str, str]]:
    """(verse, its translation) of the verses that both texts have."""
    sources, targets = load(source, data), load(target, data)
    return [(sources[key], targets[key]) for key in sources if key in targets]


def read_module(folder: Path) -> Iterator[tuple[tuple[str, int], str]]:
    """Yields ((testament, place), text with its markup) of a zText module; verses without text are left out."""
    for testament in ("ot", "nt"):
        blocks, verses, text = ((folder / f"{testament}.{kind}").read_bytes() for kind in ("bzs", "bzv", "bzz"))
        unpacked: dict[int, bytes] = {}
        for place, (block, start, length) in enumerate(struct.iter_unpack("<IIH", verses)):
            if length == 0:
                continue
            if block not in unpacked:
                offset, size, _ = struct.unpack_from("<III", blocks, 12 * block)
                unpacked[block] = zlib.decompress(text[offset : offset + size])
            yield (testament, place), unpacked[block][start : start + length].decode("utf-8", errors="replace")


def without_markup(text: str) -> str:
    """What is to be read, without notes, headings, tags and paragraph marks."""
    text = re.sub(r"<(note|title)\b.*?</\1>|¶", "", text, flags=re.DOTALL)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
    return re.sub(r" (?=[,.;:?!)\]])", "", text)  # left by a tag that ended a word
