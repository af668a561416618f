"""What the experiments text and words share: a text in numbers, in two parts, and the training of a model on it."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..experiment import Key, Setting
from ..models.language_model import CarriedLoss, LanguageModel, batches, bits_per_token
from ..models.ngram import Tokens
from ..trainer import Recipe, Training, parameters


class Budget(Protocol):
    batch: int
    length: int
    embedding_size: int
    hidden_size: int
    dropout: float
    lr: float


@dataclass(frozen=True)
class Text:
    """A text in two parts: `train` to learn from, `held_out`, its last tenth, to measure on."""

    vocabulary: tuple[Hashable, ...]
    train: Tokens
    held_out: Tokens

    @classmethod
    def of(cls, tokens: Tokens, held_out: float = 0.1) -> "Text":
        split = round(len(tokens) * (1 - held_out))
        return cls(tuple(sorted(set(tokens))), tokens[:split], tokens[split:])

    def numbers(self, tokens: Tokens, device: torch.device | None = None) -> Tensor:
        """int64 [len(tokens)]: their places in the vocabulary. Raises KeyError for a token that is not in it."""
        places = {token: place for place, token in enumerate(self.vocabulary)}
        return torch.tensor([places[token] for token in tokens], device=device)


def training(key: Key, setting: Setting, text: Text, epochs: int) -> Training:
    """A model in training for that many readings of text.train; an evaluation follows upon each."""
    budget: Any = setting.budget
    layer = setting.layer(key, budget.embedding_size, budget.hidden_size)
    model = LanguageModel(len(text.vocabulary), layer, budget.dropout).to(setting.device)
    train = text.numbers(text.train, setting.device)
    per_epoch = -(-((len(train) - 1) // budget.batch) // budget.length)
    recipe = Recipe.of_epochs(epochs, per_epoch, budget.lr)
    return Training(model, batches(train, budget.batch, budget.length), CarriedLoss(model), recipe)


def learning_curve(training: Training, text: Text) -> dict[str, Any]:
    """Trains; the curve's metric `bits` is bits per held-out token, and `bits` of the result the last of them."""
    held_out = text.numbers(text.held_out, next(training.model.parameters()).device)
    curve = training.run(lambda: {"bits": bits_per_token(training.model, held_out)})
    return {
        "bits": None if curve.diverged else curve.metrics["bits"][-1],
        "seconds": curve.seconds[-1],
        "parameters": parameters(training.model),
        "curve": {**curve.json(), "epoch": [step / training.recipe.evaluate_every for step in curve.step]},
    }
