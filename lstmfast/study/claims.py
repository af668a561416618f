"""The claims that the experiments test, and the verdicts they may come to.

They are what introductions to RNN and LSTM commonly state, put so that a measurement can contradict them.
"""

from dataclasses import dataclass
from enum import Enum

CLAIMS = {
    "C1": "In an RNN the gradient falls geometrically with the distance in time.",
    "C2": "The gates and cells of an LSTM preserve that gradient.",
    "C3": "An RNN loses what came early in a sequence; an LSTM retains it.",
    "C4": "An LSTM is relatively insensitive to the length of the gap.",
    "C5": "Gates lie between 0 and 1: f = 1 keeps everything, f = 0 forgets everything, i scales what is added, "
    "o scales what is shown; each of them is needed.",
    "C6": "The cell depends on the previous cell, the previous output and the current input.",
    "C7": "Training an LSTM is more stable.",
    "C8": "An LSTM is more complex and costs more.",
    "C9": "At short range, or on a small budget, an RNN suffices.",
    "C10": "An LSTM is better than an RNN at language modelling.",
    "C11": "An LSTM is better than an RNN at translation.",
    "C12": "An LSTM is better than an RNN at speech recognition.",
    "C13": "An LSTM is better than an RNN at telling sentiment.",
    "C14": "Both can predict time series.",
    "C15": "An LSTM is more accurate, and faster.",
    "C16": "An LSTM learns more complex, finer patterns.",
}


class Verdict(Enum):
    SUPPORTED = "supported"
    WITH_FORGET_BIAS = "only with forget bias"
    NOT_SUPPORTED = "not supported at this budget"


def verdict(default: bool, biased: bool | None = None) -> Verdict:
    """Whether a claim holds for the LSTM as torch.nn initialises it, and whether for one with forget gates set open."""
    if default:
        return Verdict.SUPPORTED
    return Verdict.WITH_FORGET_BIAS if biased else Verdict.NOT_SUPPORTED


@dataclass(frozen=True)
class Finding:
    """What an experiment says about a claim. The rule is the sentence that the verdict was computed by."""

    claim: str
    verdict: Verdict
    rule: str
    measured: str
