"""The experiments, in the order of the report. A module is imported when its experiment is asked for."""

from importlib import import_module

from .experiment import Experiment

# name -> module in lstmfast/study/experiments, whose EXPERIMENT it is
_MODULES = {
    "gradient-flow": "gradient_flow",
    "gates": "gates",
    "adding": "adding",
    "speech-gap": "speech_gap",
    "stability": "stability",
    "cost": "cost",
    "forecast": "forecast",
    "text": "text",
    "words": "words",
    "translate": "translate",
    "sentiment": "sentiment",
}


def names() -> list[str]:
    return list(_MODULES)


def get(name: str) -> Experiment:
    """Raises KeyError for a name that is not in names()."""
    return import_module(f"{__package__}.experiments.{_MODULES[name]}").EXPERIMENT
