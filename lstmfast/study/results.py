"""What was measured, as JSON: one file for each run, written when the run is over, so that no run is done twice."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .experiment import Experiment, Key, Setting


@dataclass(frozen=True)
class Record:
    key: Key
    figures: dict[str, Any]
    circumstances: dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """Mean and extremes over seeds."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: list[float | None]) -> "Spread":
        """None, which stands for a figure that is not finite, counts as infinite."""
        finite = [math.inf if value is None else value for value in values]
        return cls(statistics.fmean(finite), min(finite), max(finite), len(finite))

    def __format__(self, spec: str) -> str:
        mean, low, high = (format(value, spec or ".3g") for value in (self.mean, self.low, self.high))
        return mean if self.count < 2 or low == high else f"{mean} ({low} to {high})"

    def __str__(self) -> str:
        return format(self)


class Results:
    """The records of one experiment and budget, and ways to ask for a part of them."""

    def __init__(self, budget: Any, records: Iterable[Record], comparisons: Iterable[Record] = ()):
        self.budget = budget
        self.records = list(records)
        self.comparisons = list(comparisons)

    def __len__(self) -> int:
        return len(self.records)

    def select(self, **key: Any) -> list[Record]:
        """The records whose keys have these values."""
        return [record for record in self.records if all(record.key.get(name) == key[name] for name in key)]

    def values(self, figure: str, **key: Any) -> list[float]:
        """A figure of each selected record, one for each seed."""
        return [record.figures[figure] for record in self.select(**key)]

    def spread(self, figure: str, **key: Any) -> Spread:
        values = self.values(figure, **key)
        if not values:
            raise KeyError(f"no result for {key}")
        return Spread.of(values)

    def mean(self, figure: str, **key: Any) -> float:
        return self.spread(figure, **key).mean

    def distinct(self, name: str, **key: Any) -> list[Any]:
        """The values that a part of the keys takes, in the order of the runs."""
        return list(dict.fromkeys(record.key[name] for record in self.select(**key) if name in record.key))

    def complete(self, experiment: Experiment) -> "Results":
        """The records of those seeds for which all runs are there, in the order of the runs."""
        by_name = {name(record.key): record for record in self.records}
        kept = []
        for seed in sorted(self.distinct("seed")):
            wanted = [name(key) for key in experiment.runs(self.budget, [seed])]
            if all(one in by_name for one in wanted):
                kept += [by_name[one] for one in wanted]
        return Results(self.budget, kept, self.comparisons)


def mean_list(lists: Iterable[Sequence[float]]) -> list[float]:
    """The mean of lists of the same length, place by place: a learning curve, averaged over seeds."""
    return [statistics.fmean(column) for column in zip(*lists, strict=True)]


def name(key: Key) -> str:
    """The key as a file name."""
    return ",".join(f"{part}={value}" for part, value in key.items()).replace("/", "_")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Store:
    """The results of one experiment in a folder: <out>/results/<experiment>/<budget>-<provider>/<key>.json."""

    def __init__(self, out: Path, experiment: Experiment, mode: str, setting: Setting):
        self.folder = out / "results" / experiment.name / f"{mode}-{setting.provider}"
        self.budget = setting.budget
        # A result counts only where it was measured with the same budget, on the same kind of device.
        self.identity = json.loads(json.dumps({"budget": asdict(setting.budget), "device": setting.device.type}))

    def load(self, key: Key, kind: str = "run") -> Record | None:
        path = self._path(key, kind)
        return self._read(path) if path.is_file() else None

    def save(self, key: Key, figures: dict[str, Any], circumstances: dict[str, Any], kind: str = "run") -> None:
        path = self._path(key, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = _without_nan(figures)
        content = {"identity": self.identity, "key": key, "figures": figures, "circumstances": circumstances}
        # A rename, so that an interruption leaves a whole file or none.
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        unfinished.replace(path)

    def results(self) -> Results:
        """Everything that was measured with this budget, whatever the seed."""
        kinds = ([self._read(path) for path in sorted(self.folder.glob(f"{kind} *.json"))] for kind in ("run", "torch"))
        runs, comparisons = ([record for record in records if record is not None] for records in kinds)
        return Results(self.budget, runs, comparisons)

    def _path(self, key: Key, kind: str) -> Path:
        return self.folder / f"{kind} {name(key)}.json"

    def _read(self, path: Path) -> Record | None:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["identity"] != self.identity:
            return None
        return Record(content["key"], content["figures"], content["circumstances"])
