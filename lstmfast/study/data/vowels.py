"""JapaneseVowels: nine men say "ae"; 12 LPC cepstrum coefficients per frame, 7 to 29 frames; who speaks?

Source: M. Kudo, J. Toyama, M. Shimbo, "Multidimensional curve classification using passing-through regions", Pattern
Recognition Letters 20, 1999; UCI Machine Learning Repository. The files lie in the package aeon (BSD-3-Clause), which
is not imported.
"""

from pathlib import Path

import torch
from torch import Tensor

from .source import Source

FILES = tuple(f"datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST"))
SOURCE = Source(
    "JapaneseVowels (UCI), in the package aeon",
    "BSD-3-Clause package, UCI data",
    "aeon",
    "pip install --no-deps aeon",
    FILES,
)
SPEAKERS = 9
COEFFICIENTS = 12


def load(data: Path | None = None) -> tuple[tuple[list[Tensor], Tensor], tuple[list[Tensor], Tensor]]:
    """(training utterances, speakers), (test utterances, speakers): 270 and 370 of them, each [frames, 12]."""
    train, test = (parse(SOURCE.read(file, data).decode()) for file in FILES)
    return train, test


def parse(text: str) -> tuple[list[Tensor], Tensor]:
    """A .ts file: after @data a line for each case, its dimensions and its class separated by ":", values by ","."""
    _, found, cases = text.partition("@data")
    if not found:
        raise ValueError("no @data in this .ts file")
    sequences, classes = [], []
    for line in filter(None, map(str.strip, cases.splitlines())):
        *dimensions, name = line.split(":")
        sequences.append(torch.tensor([[float(value) for value in values.split(",")] for values in dimensions]).t())
        classes.append(int(name) - 1)
    return sequences, torch.tensor(classes)
