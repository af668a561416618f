"""Everything that was measured, on one HTML page that needs nothing beside it."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from .claims import CLAIMS, Finding
from .data.source import Missing
from .experiment import Band, Experiment, Table
from .plots import png
from .results import Record, Results, name

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { padding: .15rem .7rem; text-align: left; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
figure { margin: 1rem 0; }
figcaption, .note { color: #555; font-size: .9em; }
.supported { color: #006d2c; font-weight: 600; }
.only { color: #8a6d00; font-weight: 600; }
.not { color: #a50f15; font-weight: 600; }
"""


@dataclass(frozen=True)
class Chapter:
    """An experiment and what there is of its results, whole seeds only."""

    experiment: Experiment
    results: Results
    mode: str

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """The plots as PNG, by their names. Raises Missing without matplotlib."""
        return {plot.name: png(plot, self.results) for plot in self.experiment.plots} if len(self.results) else {}

    @property
    def findings(self) -> list[Finding]:
        return self.experiment.findings(self.results) if len(self.results) else []

    @property
    def seeds(self) -> int:
        return len(self.results.distinct("seed"))


def html(chapters: Iterable[Chapter]) -> str:
    chapters = list(chapters)
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>LSTM against RNN, measured</title>',
        f"<style>{STYLE}</style><h1>LSTM against RNN, measured</h1>",
        "<p>Verdicts are computed from the results by the rules given with them. &ldquo;Only with forget bias&rdquo;: "
        "the LSTM that torch.nn initialises does not show it, one whose forget gates begin open does.</p>",
        _claims(chapters),
        *map(_chapter, chapters),
    ]
    return "\n".join(parts) + "\n"


def _findings(chapters: list[Chapter]) -> list[tuple[str, Chapter | None, Finding | None]]:
    """Every claim with every experiment that says something about it; once without any if there is none."""
    rows = []
    for claim in CLAIMS:
        found = [
            (claim, chapter, finding) for chapter in chapters for finding in chapter.findings if finding.claim == claim
        ]
        rows += found or [(claim, None, None)]
    return rows


def _claims(chapters: list[Chapter]) -> str:
    rows = []
    for claim, chapter, finding in _findings(chapters):
        if finding is None:
            rows.append((claim, escape(CLAIMS[claim]), "", "", "not measured", ""))
            continue
        link = f'<a href="#{chapter.experiment.name}">{escape(chapter.experiment.name)}</a>'
        found = (str(chapter.seeds), _verdict(finding), escape(finding.measured))
        rows.append((claim, escape(CLAIMS[claim]), link, *found))
    return _table(("", "claim", "experiment", "seeds", "verdict", "measured"), rows)


def markdown(chapters: Iterable[Chapter]) -> str:
    """The table of claims alone, for a text."""
    lines = ["| claim | experiment | seeds | verdict | measured |", "| :--- | :--- | ---: | :--- | :--- |"]
    for claim, chapter, finding in _findings(list(chapters)):
        if finding is not None:
            about = (f"{claim} {CLAIMS[claim]}", chapter.experiment.name, str(chapter.seeds))
            lines.append(f"| {' | '.join((*about, finding.verdict.value, finding.measured))} |")
    return "\n".join(lines) + "\n"


def _chapter(chapter: Chapter) -> str:
    experiment, results = chapter.experiment, chapter.results
    parts = [f'<h2 id="{experiment.name}">{escape(experiment.title)}</h2>', f"<p>{escape(experiment.about)}</p>"]
    if not len(results):
        return "\n".join([*parts, f"<p class=note>No results yet: lstmfast study run {experiment.name}</p>"])
    for finding in chapter.findings:
        claim = escape(CLAIMS[finding.claim])
        parts.append(
            f"<p><b>{finding.claim}</b> {claim} {_verdict(finding)}<br>Measured: {escape(finding.measured)}<br>"
            f"<span class=note>Rule: {escape(finding.rule)}</span></p>"
        )
    for table in experiment.tables(results):
        parts.append(_plain_table(table))
    parts += _pictures(chapter)
    if experiment.literature:
        rows = [(escape(entry.figure), escape(entry.source)) for entry in experiment.literature]
        parts.append(_table(("published, for comparison", "source"), rows))
    if experiment.bands:
        parts.append(_bands(check(experiment, results)))
    if results.comparisons:
        parts.append(_comparisons(results.comparisons))
    parts.append(_circumstances(chapter))
    return "\n".join(parts)


def _pictures(chapter: Chapter) -> list[str]:
    parts = []
    try:
        for plot in chapter.experiment.plots:
            picture = base64.b64encode(chapter.pictures[plot.name]).decode()
            image = f'<img alt="{escape(plot.caption)}" src="data:image/png;base64,{picture}">'
            parts.append(f"<figure>{image}<figcaption>{escape(plot.caption)}</figcaption></figure>")
    except Missing as missing:
        return [f"<p class=note>{escape(str(missing))}</p>"]
    return parts


def check(experiment: Experiment, results: Results) -> list[tuple[Band, float, bool]]:
    """Each expected band, the value measured, and whether it lies within."""
    values = ((band, band.value(results)) for band in experiment.bands)
    return [(band, value, band.low <= value <= band.high) for band, value in values]


def _bands(checked: list[tuple[Band, float, bool]]) -> str:
    rows = [
        (escape(band.what), f"{band.low:g} to {band.high:g}", f"{value:.4g}", "yes" if within else "<b>no</b>")
        for band, value, within in checked
    ]
    return _table(("expected", "band", "measured", "within"), rows)


def _comparisons(comparisons: list[Record]) -> str:
    rows = []
    for record in comparisons:
        figures = record.figures
        ratio = figures["torch_seconds"] / figures["lstmfast_seconds"]
        load = record.circumstances["load"]
        rows.append(
            (
                escape(name(record.key)),
                str(figures["steps"]),
                f"{figures['difference']:.1e}",
                f"{figures['relative_difference']:.1e}",
                f"{1000 * figures['lstmfast_seconds']:.3g}",
                f"{1000 * figures['torch_seconds']:.3g}",
                f"{ratio:.2f}",
                "" if load is None else f"{load:.1f}",
            )
        )
    header = (
        "the same steps with torch.nn's layer",
        "steps",
        "largest difference of losses",
        "relative",
        "lstmfast, ms a step",
        "torch.nn, ms a step",
        "torch.nn / lstmfast",
        "load average",
    )
    return _table(header, rows)


def _circumstances(chapter: Chapter) -> str:
    licences = "; ".join(f"{source.title}, {source.licence}" for source in chapter.experiment.sources)
    circumstances = [record.circumstances for record in chapter.results.records]
    machines = {
        f"{c['device']} ({c['isa']}), {c['threads']} threads, torch {c['torch']}, lstmfast {c['lstmfast']}"
        for c in circumstances
    }
    loads = [c["load"] for c in circumstances if c["load"] is not None]
    load = f", load average of the machine {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    text = (
        f"{chapter.mode} budget {chapter.results.budget}; seeds: {chapter.seeds}; {'; '.join(sorted(machines))}{load}"
    )
    data = f" Data: {licences}." if licences else ""
    return f"<p class=note>{escape(text)}.{escape(data)}</p>"


def _verdict(finding: Finding) -> str:
    return f"<span class={finding.verdict.value.split()[0]}>{finding.verdict.value}</span>"


def _plain_table(table: Table) -> str:
    rows = [tuple(escape(cell) for cell in row) for row in table.rows]
    return f"<p><b>{escape(table.title)}</b></p>" + _table(table.header, rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def cell(text: str) -> str:
        number = text[:1].isdigit() or (text[:1] in "-+." and text[1:2].isdigit())
        return f"<td class=number>{text}</td>" if number else f"<td>{text}</td>"

    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def write(folder: Path, chapters: Iterable[Chapter]) -> Path:
    """Writes report.html, claims.md and the plots, as <experiment>-<plot>.png; returns the page's path.

    Raises Missing without matplotlib, after the page has been written without plots."""
    chapters = list(chapters)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    page.write_text(html(chapters), encoding="utf-8")
    (folder / "claims.md").write_text(markdown(chapters), encoding="utf-8")
    for chapter in chapters:
        for plot, picture in chapter.pictures.items():
            (folder / f"{chapter.experiment.name}-{plot}.png").write_bytes(picture)
    return page
