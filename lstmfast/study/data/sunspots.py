"""Sunspot numbers, a value for each year from 1700 to 2008.

Source: National Geophysical Data Center, public domain. The file lies in the package statsmodels (BSD-3-Clause),
which is not imported.
"""

from pathlib import Path

from .source import Source
from .table import rows

FILE = "datasets/sunspots/sunspots.csv"
SOURCE = Source(
    "Sunspots (NGDC), in the package statsmodels",
    "public domain data, BSD-3-Clause package",
    "statsmodels",
    "pip install --no-deps statsmodels",
    (FILE,),
)


def load(data: Path | None = None) -> tuple[list[float], list[float]]:
    """(years, sunspot numbers)."""
    years, numbers = zip(*rows(SOURCE.read(FILE, data)), strict=True)
    return [float(year) for year in years], [float(number) for number in numbers]
