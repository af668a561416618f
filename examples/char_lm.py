"""Trains one character-level language model twice, with torch.nn.LSTM and with lstmfast.LSTM, and compares the two.

Both start from the same seed, and so from the same weights, and see the same batches. The run prints how far their
losses agree, what a step costs each, how well both predict text they have not seen beside an n-gram model and bz2, and
a sample; it leaves a picture and a JSON file of the figures. `python examples/char_lm.py --help` lists the options.

To start a model of your own from here: the model is the study's, lstmfast/study/models/language_model.py, an ordinary
module around lstmfast.LSTM; Training.step is an ordinary step of truncated backpropagation through time.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import comparison
import corpus
import torch
from comparison import LearningCurve
from torch import Tensor, nn
from tqdm import tqdm

import lstmfast
from lstmfast.study.models.language_model import CarriedLoss, LanguageModel, batches, generate
from lstmfast.study.models.ngram import Ngram, bz2_bits_per_character

LAYERS = {
    "lstm": {"torch.nn.LSTM": nn.LSTM, "lstmfast.LSTM": lstmfast.LSTM},
    "rnn": {"torch.nn.RNN": nn.RNN, "lstmfast.RNN": lstmfast.RNN},
}
NGRAM_ORDER = 5  # the best order for a text of this size


def language_model(
    recurrent_layer: type[nn.RNNBase], alphabet_size: int, hidden_size: int, num_layers: int, embedding_size: int = 64
) -> LanguageModel:
    """recurrent_layer: torch.nn.LSTM or RNN, or any class with their constructor and call, such as lstmfast.LSTM."""
    return LanguageModel(alphabet_size, recurrent_layer(embedding_size, hidden_size, num_layers))


def learning_rate_factor(step: int, steps: int) -> float:
    """Rises evenly to 1 over the first tenth of the training, then falls to 0 along a cosine."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


class Training:
    """A model in training: its optimizer, its place in the text, and what its steps have yielded and cost."""

    def __init__(self, model: LanguageModel, characters: Tensor, options: argparse.Namespace):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, options.steps)
        )
        self.batches = batches(characters, options.batch, options.length)
        self.loss = CarriedLoss(model)
        self.curve = LearningCurve()

    def step(self) -> None:
        began = time.perf_counter()
        loss = self.loss(next(self.batches))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.curve.append(loss.item() / math.log(2), time.perf_counter() - began)


def train_in_turns(trainings: dict[str, Training], steps: int) -> None:
    """Takes `steps` steps with each, a few at a time, so that whatever else the machine does slows both alike."""
    progress = progress_bar(total=steps * len(trainings), desc="training", unit="step")
    turn = list(trainings.values())
    for first in range(0, steps, comparison.STEPS_PER_TURN):
        for training in turn:
            for _ in range(first, min(first + comparison.STEPS_PER_TURN, steps)):
                training.step()
                progress.update()
        turn.reverse()
        losses = (f"{name} {training.curve.bits[-1]:.3f} bits" for name, training in trainings.items())
        progress.set_postfix_str(", ".join(losses), refresh=False)
    progress.close()


@torch.inference_mode()
def held_out_bits(model: LanguageModel, history: Tensor, held_out: Tensor, desc: str) -> float:
    """Bits per character of `held_out` [N], read once from end to end after `history` [M], the state carried along."""
    characters = torch.cat([history, held_out])
    first_target, nats, state = len(history), 0.0, None
    block = 1000
    for start in progress_bar(range(0, len(characters) - 1, block), desc=desc, unit="block"):
        targets = characters[start + 1 : start + 1 + block]
        logits, state = model(characters[start : start + len(targets), None], state)
        counted = slice(max(0, first_target - 1 - start), None)
        nats += nn.functional.cross_entropy(logits[counted, 0], targets[counted], reduction="sum").item()
    return nats / len(held_out) / math.log(2)


def progress_bar(*args, **kwargs) -> tqdm:
    # A log file gets a line now and then instead of ten a second.
    return tqdm(*args, **kwargs, mininterval=0.1 if sys.stderr.isatty() else 15, dynamic_ncols=True)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a character-level language model with torch.nn and with lstmfast, and compare the two.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--layer", choices=["both", "lstmfast", "torch"], default="both", help="which to train")
    parser.add_argument("--cell", choices=["lstm", "rnn"], default="lstm", help="LSTM or RNN")
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text; else Python's language reference")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size")
    parser.add_argument("--layers", type=int, default=1, help="number of recurrent layers")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=100, help="characters in a sequence")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each model")
    parser.add_argument("--lr", type=float, default=1e-2, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the sample")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads that torch may use")
    parser.add_argument("--sample", type=int, default=400, help="characters to generate")
    parser.add_argument("--temperature", type=float, default=0.7, help="below 1: safer sample, above 1: wilder")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR", help="where the results go")
    parser.add_argument("--quick", action="store_true", help="a few steps of a small model, to see that all works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(hidden=64, batch=8, length=32, steps=60, sample=100)
    options = parser.parse_args(arguments)
    for name in ("hidden", "layers", "batch", "length", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    for name in ("lr", "temperature"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be greater than 0")
    return options


def start_trainings(characters: Tensor, alphabet_size: int, options: argparse.Namespace) -> dict[str, Training]:
    """A training for each layer that was asked for, by the layer's name, all from the same weights."""
    trainings = {}
    for name, layer in LAYERS[options.cell].items():
        if options.layer == "both" or name.startswith(options.layer + "."):
            # One step of a model that is thrown away: what torch loads and sets up on first use is no step's cost.
            Training(language_model(layer, alphabet_size, options.hidden, options.layers), characters, options).step()
            torch.manual_seed(options.seed)
            model = language_model(layer, alphabet_size, options.hidden, options.layers)
            trainings[name] = Training(model, characters, options)
    first, *others = (training.model.state_dict() for training in trainings.values())
    for other in others:
        if first.keys() != other.keys() or any(not torch.equal(first[name], other[name]) for name in first):
            sys.exit("the models differ before training: the same seed should have given the same weights")
    return trainings


def main() -> None:
    options = parse_options()
    # Gradients that vanish over many steps turn into subnormal floats, on which a CPU is up to ten times slower. Both
    # models flush them to zero, or the comparison would measure that instead. This comes before all work in parallel,
    # because a worker thread takes the setting over from the thread that starts it.
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)

    try:
        text = corpus.load(options.text)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"cannot read {options.text}: {error}")
    if (len(text.train) - 1) // options.batch < options.length:
        sys.exit(f"{text.name} is too short for {options.batch} sequences of {options.length} characters")
    print(f"text   {text.name}: {len(text.train):,} characters to learn from, {len(text.held_out):,} held out,")
    print(f"       {len(text.alphabet)} different ones; SHA-256 {text.sha256[:16]}")
    index = {character: i for i, character in enumerate(text.alphabet)}
    train, held_out = (torch.tensor([index[character] for character in part]) for part in (text.train, text.held_out))

    trainings = start_trainings(train, len(text.alphabet), options)
    models = {name: training.model for name, training in trainings.items()}
    curves = {name: training.curve for name, training in trainings.items()}
    size = sum(parameter.numel() for parameter in next(iter(models.values())).parameters())
    print(f"model  {size:,} parameters, trained with {' and '.join(models)}; {options.threads} thread(s)")

    train_in_turns(trainings, options.steps)

    held_out_bpc = {name: held_out_bits(model, train[-1000:], held_out, name) for name, model in models.items()}
    ngram = Ngram(NGRAM_ORDER, text.train, text.alphabet)
    held_out_bpc[f"{NGRAM_ORDER}-gram"] = ngram.bits_per_token(text.held_out, history=text.train)
    held_out_bpc["bz2"] = bz2_bits_per_character(text.held_out, history=text.train)
    sampled = list(models)[-1]
    prompt = text.held_out[:80]
    drawn = generate(models[sampled], held_out[: len(prompt)], options.sample, options.temperature, options.seed)
    sample = "".join(text.alphabet[i] for i in drawn)

    figures = {
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "lstmfast": lstmfast.__version__},
        "text": {
            "name": text.name,
            "sha256": text.sha256,
            "alphabet": len(text.alphabet),
            "train": len(text.train),
            "held_out": len(text.held_out),
        },
        "parameters": size,
        "seconds_per_step": {name: curve.seconds_per_step for name, curve in curves.items()},
        "held_out_bits_per_character": held_out_bpc,
        "sample": sample,
        "curves": {name: vars(curve) for name, curve in curves.items()},
    }
    print(f"\n{'':14}ms per step  bits per character, held out")
    for name, bits in held_out_bpc.items():
        cost = f"{1000 * curves[name].seconds_per_step:11.1f}" if name in curves else f"{'':11}"
        print(f"{name:14}{cost}  {bits:.3f}")
    if len(trainings) == 2:
        agreement, speedup = comparison.agreement(*curves.values()), comparison.speedup(*curves.values())
        figures |= {"agreement": vars(agreement), "speedup": vars(speedup)}
        print(f"\nagreement  {agreement}\nspeed-up   {speedup}")

    options.out.mkdir(parents=True, exist_ok=True)
    picture, numbers = options.out / "char_lm.png", options.out / "char_lm.json"
    title = f"Character-level {options.cell.upper()} language model of {text.name}"
    comparison.draw(curves, held_out_bpc, title, picture)
    numbers.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"\n{sampled} continues the held-out text after >>> (temperature {options.temperature}):")
    print(f"{prompt}>>>{sample}\n\nwrote {picture} and {numbers}")


if __name__ == "__main__":
    main()
