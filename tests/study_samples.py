"""Small data sets in the formats of the real ones, for the study's tests: made up, but read by the same loaders."""

import math
import zipfile
from pathlib import Path

TS = """# a comment
@problemName JapaneseVowels
@dimensions 12
@classLabel true 1 2 3 4 5 6 7 8 9
@data
{cases}
"""


def japanese_vowels(cases_per_speaker: int) -> str:
    """Utterances of 7 to 15 frames, whose coefficients say at once who speaks."""
    lines = []
    for case in range(9 * cases_per_speaker):
        speaker, frames = case % 9, 7 + case % 9
        dimensions = (
            ",".join(f"{math.sin(speaker + coefficient) + 0.01 * frame:.6f}" for frame in range(frames))
            for coefficient in range(12)
        )
        lines.append(":".join([*dimensions, str(speaker + 1)]))
    return TS.format(cases="\n".join(lines))


def sunspots() -> str:
    """A cycle of eleven years without noise: a linear model of nine years predicts it exactly."""
    rows = (f"{year},{60 + 50 * math.cos(2 * math.pi * (year - 1700) / 11):.6f}" for year in range(1700, 2009))
    return "\n".join(['"YEAR","SUNACTIVITY"', *rows]) + "\n"


def write(folder: Path) -> Path:
    """The speech as plain files, the sunspots inside a wheel: the two ways in which data can be given."""
    for part, cases in (("TRAIN", 3), ("TEST", 2)):
        (folder / f"JapaneseVowels_{part}.ts").write_text(japanese_vowels(cases), encoding="utf-8")
    with zipfile.ZipFile(folder / "statsmodels-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("statsmodels/datasets/sunspots/sunspots.csv", sunspots())
    return folder
