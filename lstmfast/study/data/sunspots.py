"""Sunspot numbers, a value for each year from 1700 to 2008.

Source: National Geophysical Data Center, public domain. The file lies in the package statsmodels (BSD-3-Clause),
which is not imported.
"""

import csv
import io
from pathlib import Path

from .source import Source

FILE = "datasets/sunspots/sunspots.csv"
SOURCE = Source(
    "Sunspots (NGDC), in the package statsmodels",
    "public domain data, BSD-3-Clause package",
    "statsmodels",
    "pip install --no-deps statsmodels",
    (FILE,),
)


def load(data: Path | None = None) -> tuple[list[int], list[float]]:
    """(years, sunspot numbers)."""
    return parse(SOURCE.read(FILE, data).decode())


def parse(text: str) -> tuple[list[int], list[float]]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row][1:]
    return [int(year) for year, _ in rows], [float(number) for _, number in rows]
