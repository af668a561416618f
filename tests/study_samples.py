"""Small data sets in the formats of the real ones, for the study's tests: made up, but read by the same loaders."""

import io
import math
import struct
import tarfile
import zipfile
import zlib
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


def co2() -> str:
    """1980 to 1992, a week of each month, growing by 1 a year; April 1982 has no value."""
    months = ((year, month) for year in range(1980, 1993) for month in range(1, 13))
    rows = (
        f"{year}{month:02}15,{'' if (year, month) == (1982, 4) else f'{300 + year - 1980 + month / 12:.6f}'}"
        for year, month in months
    )
    return "\n".join(["date,co2", *rows]) + "\n\n"


def airline() -> str:
    """Months of 1949 to 1960 whose passengers grow by a hundredth a month, without seasons."""
    months = ((year, month) for year in range(1949, 1961) for month in range(1, 13))
    rows = (f"{year}-{month:02},{100 * 1.01**index:.6f}" for index, (year, month) in enumerate(months))
    return "\n".join(["Date,Passengers", *rows]) + "\n"


def reviews() -> str:
    """Sentences that one word decides; the last one is rated 0 and the one before is there twice."""
    kinds = [("good", 2.5), ("bad", -1.5)]
    lines = [f"{index}\t{kinds[index % 2][1]}\tA {kinds[index % 2][0]} film, number {index}." for index in range(60)]
    return "\n".join([*lines, "60\t1.0\tTwice,  once", "61\t-1.0\tTwice, once", "62\t0.0\tSo so"]) + "\n"


def archive(files: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def bible_text(folder: Path, testaments: dict[str, list[list[str]]]) -> None:
    """A zText module of the SWORD project: per testament the blocks, each a list of verses."""
    folder.mkdir(parents=True)
    for testament, blocks in testaments.items():
        index, verses, text = b"", b"", b""
        for number, block in enumerate(blocks):
            content = b""
            for verse in block:
                verses += struct.pack("<IIH", number, len(content), len(verse.encode()))
                content += verse.encode()
            packed = zlib.compress(content)
            index += struct.pack("<III", len(text), len(packed), len(content))
            text += packed
        for kind, data in (("bzs", index), ("bzv", verses), ("bzz", text)):
            (folder / f"{testament}.{kind}").write_bytes(data)


def write(folder: Path) -> Path:
    """Sunspots and carbon dioxide inside a wheel, the rest as plain files: the two ways in which data can be given."""
    for part, cases in (("TRAIN", 3), ("TEST", 2)):
        (folder / f"JapaneseVowels_{part}.ts").write_text(japanese_vowels(cases), encoding="utf-8")
    with zipfile.ZipFile(folder / "statsmodels-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("statsmodels/datasets/sunspots/sunspots.csv", sunspots())
        wheel.writestr("statsmodels/datasets/co2/co2.csv", co2())
    (folder / "Airline.csv").write_text(airline(), encoding="utf-8")
    (folder / "movieReviewSnippets_GroundTruth.txt").write_text(reviews(), encoding="utf-8")
    (folder / "pairs.tsv").write_text("".join(f"{n:b}\t{n:o}\n" for n in range(40)), encoding="utf-8")
    return folder
