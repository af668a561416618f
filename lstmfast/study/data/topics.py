"""English prose that every Python brings along: the help texts of the language reference.

Source: the standard library's module pydoc_data.topics. Licence: Python Software Foundation License.
"""

import hashlib
from functools import cache

import torch
from torch import Tensor

from .source import Source

SOURCE = Source("Python's help texts (pydoc_data.topics)", "PSF licence")


@cache
def text() -> str:
    """All topics in the order of their names, each paragraph once.

    A fifth of the text is paragraphs that several topics share; a part held out for testing would have been seen in
    training. The text differs between Python versions: see fingerprint()."""
    from pydoc_data.topics import topics

    return deduplicated(topics[name] for name in sorted(topics))


@cache
def characters() -> tuple[Tensor, int]:
    """The text as numbers of characters, int64 [N], and how many different ones there are."""
    alphabet = {character: number for number, character in enumerate(sorted(set(text())))}
    return torch.tensor([alphabet[character] for character in text()]), len(alphabet)


def deduplicated(documents) -> str:
    """The paragraphs of the documents, those that came before left out."""
    paragraphs = (paragraph.strip("\n") for document in documents for paragraph in document.split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraph for paragraph in paragraphs if paragraph.strip())) + "\n"


def fingerprint(content: str) -> str:
    """Eight digits that tell texts apart: to be given with every figure."""
    return hashlib.sha256(content.encode()).hexdigest()[:8]
