"""Passengers of international airlines, in thousands a month, 1949 to 1960.

Source: series G of G. Box, G. Jenkins, "Time Series Analysis: Forecasting and Control", 1970. The file lies in the
package aeon (BSD-3-Clause), which is not imported.
"""

from pathlib import Path

from .source import Source
from .table import rows

FILE = "datasets/data/Airline/Airline.csv"
SOURCE = Source(
    "Airline passengers, in the package aeon",
    "BSD-3-Clause package; a published table of 144 numbers",
    "aeon",
    "pip install --no-deps aeon",
    (FILE,),
)


def load(data: Path | None = None) -> tuple[list[float], list[float]]:
    """(times in years, passengers): a month is at its beginning."""
    months, passengers = zip(*rows(SOURCE.read(FILE, data)), strict=True)
    years = [int(month[:4]) + (int(month[5:]) - 1) / 12 for month in months]
    return years, [float(number) for number in passengers]
