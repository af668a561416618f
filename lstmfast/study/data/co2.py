"""Carbon dioxide in the air of Mauna Loa, in parts per million, monthly means from March 1958 to December 2001.

Source: C. Keeling, T. Whorf, "Atmospheric CO2 concentrations derived from flask air samples at sites in the SIO
network", Carbon Dioxide Information Analysis Center, 2004, public domain. The file, weekly, lies in the package
statsmodels (BSD-3-Clause), which is not imported.
"""

from pathlib import Path
from statistics import fmean

from .source import Source
from .table import rows

FILE = "datasets/co2/co2.csv"
SOURCE = Source(
    "Carbon dioxide at Mauna Loa, in the package statsmodels",
    "public domain data, BSD-3-Clause package",
    "statsmodels",
    "pip install --no-deps statsmodels",
    (FILE,),
)


def load(data: Path | None = None) -> tuple[list[float], list[float]]:
    """(times in years, means of the months): a month is at its beginning."""
    return monthly((date, float(value)) for date, value in rows(SOURCE.read(FILE, data)) if value)


def monthly(weeks) -> tuple[list[float], list[float]]:
    """The means of (date as YYYYMMDD, value); a month without any lies on the line between its neighbours."""
    months: dict[int, list[float]] = {}
    for date, value in weeks:
        months.setdefault(12 * int(date[:4]) + int(date[4:6]) - 1, []).append(value)
    times, means = range(min(months), max(months) + 1), []
    for month in times:
        before = max(there for there in months if there <= month)
        after = min(there for there in months if there >= month)
        low, high = fmean(months[before]), fmean(months[after])
        means.append(low + (high - low) * (month - before) / max(1, after - before))
    return [month / 12 for month in times], means
