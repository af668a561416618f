"""The examples: a short run of char_lm.py as a user would start it, and the pieces that its figures rest on."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import char_lm
import comparison
import corpus
import matplotlib.image
import numpy as np
import pytest
import torch
from comparison import LearningCurve
from torch import nn

import lstmfast
from lstmfast.study.models.ngram import Ngram, bz2_bits_per_character

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_char_lm(*arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / "char_lm.py", "--quick", "--threads", "1", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """(standard output, figures, path of the picture) of one short run with both layers."""
    out = tmp_path_factory.mktemp("char_lm")
    finished = run_char_lm("--out", out)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, json.loads((out / "char_lm.json").read_text(encoding="utf-8")), out / "char_lm.png"


def test_losses_agree_and_fall(quick_run):
    _, figures, _ = quick_run
    torch_bits, our_bits = (figures["curves"][name]["bits"] for name in ("torch.nn.LSTM", "lstmfast.LSTM"))
    assert len(torch_bits) == len(our_bits) == figures["options"]["steps"]
    assert abs(torch_bits[0] - our_bits[0]) < 2e-6, (
        "the first loss comes before any update and differs by rounding only"
    )
    assert figures["agreement"]["first_step_apart"] is None
    assert figures["agreement"]["largest_early_difference"] < comparison.TOLERANCE
    assert abs(our_bits[0] - math.log2(figures["text"]["alphabet"])) < 0.5, "untrained, every character is as likely"
    assert np.mean(our_bits[-10:]) < our_bits[0] - 2


def test_figures(quick_run):
    output, figures, _ = quick_run
    assert figures.keys() == {
        "options", "versions", "text", "parameters", "seconds_per_step", "held_out_bits_per_character", "sample",
        "curves", "agreement", "speedup",
    }  # fmt: skip
    bits = figures["held_out_bits_per_character"]
    assert bits.keys() == {"torch.nn.LSTM", "lstmfast.LSTM", "5-gram", "bz2"}
    assert all(0 < value < math.log2(figures["text"]["alphabet"]) for value in bits.values())
    assert abs(bits["torch.nn.LSTM"] - bits["lstmfast.LSTM"]) < 1e-3
    assert figures["speedup"]["low"] <= figures["speedup"]["median"] <= figures["speedup"]["high"]
    assert len(figures["sample"]) == figures["options"]["sample"]
    assert figures["sample"] in output
    assert figures["text"]["sha256"][:16] in output


def test_picture(quick_run):
    picture = matplotlib.image.imread(quick_run[2])
    height, width, _ = picture.shape
    assert height > 400
    assert width > 1200
    colours = np.unique(picture[..., :3] @ np.array([1, 256, 65536]))
    assert len(colours) > 100, "curves, grid and text leave many shades"


def test_one_layer_on_a_text_of_ones_own(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("\n\n".join(f"Paragraph {i} is nearly like paragraph {i + 1}, süß." for i in range(200)), "utf-8")
    finished = run_char_lm(
        "--text", text, "--cell", "rnn", "--layer", "lstmfast", "--layers", 2, "--steps", 3, "--out", tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    figures = json.loads((tmp_path / "char_lm.json").read_text(encoding="utf-8"))
    assert list(figures["curves"]) == ["lstmfast.RNN"]
    assert figures["options"]["steps"] == 3, "an option given explicitly outweighs --quick"
    assert figures["text"]["name"] == "own.txt"
    assert "agreement" not in figures


def test_short_text_is_refused(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("Too short.")
    finished = run_char_lm("--text", text, "--out", tmp_path)
    assert finished.returncode != 0
    assert "short.txt is too short" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_unreadable_text_is_refused(tmp_path):
    finished = run_char_lm("--text", tmp_path / "nowhere.txt", "--out", tmp_path)
    assert finished.returncode != 0
    assert "nowhere.txt" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("steps", [1, 2, 10, 15, 800])
def test_learning_rate_rises_and_falls(steps):
    factors = [char_lm.learning_rate_factor(step, steps) for step in range(steps)]
    assert max(factors) == 1
    assert min(factors) > 0
    top = factors.index(1)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert char_lm.learning_rate_factor(steps, steps) == pytest.approx(0, abs=1e-12) or steps == 1


def test_batches_continue_each_other():
    characters = torch.arange(100)
    stream = char_lm.batches(characters, batch_size=3, length=10)
    first, second, third, fourth = (next(stream) for _ in range(4))
    assert first[0].shape == (10, 3)
    assert torch.equal(torch.cat([first[0], second[0], third[0]]), torch.arange(99).view(3, 33).t()[:30])
    for inputs, targets, _ in (first, second, third):
        assert torch.equal(targets, inputs + 1)
    assert [begins for _, _, begins in (first, second, third, fourth)] == [True, False, False, True]
    assert torch.equal(fourth[0], first[0])


@pytest.mark.parametrize("layer", [nn.LSTM, nn.RNN, lstmfast.LSTM, lstmfast.RNN])
def test_held_out_bits_carry_the_state(layer):
    torch.manual_seed(0)
    model = char_lm.CharacterModel(layer, 5, 8, 1)
    characters = torch.randint(5, (2400,))
    logits, _ = model(characters[:-1, None])
    expected = nn.functional.cross_entropy(logits[1499:, 0], characters[1500:]) / math.log(2)
    measured = char_lm.held_out_bits(model, characters[:1500], characters[1500:], "test")
    assert measured == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("layer", [lstmfast.LSTM, lstmfast.RNN])
def test_generating_carries_the_state(layer):
    torch.manual_seed(0)
    model = char_lm.CharacterModel(layer, 11, 16, 1)
    prompt = torch.randint(11, (7,))
    drawn = char_lm.generate(model, prompt, 20, temperature=1e-6, seed=0)  # as good as always the likeliest
    text = prompt.tolist()
    for _ in range(20):
        logits, _ = model(torch.tensor(text)[:, None])
        text.append(int(logits[-1, 0].argmax()))
    assert drawn == text[7:]


def test_generating_repeats_itself_from_the_same_seed():
    torch.manual_seed(0)
    model = char_lm.CharacterModel(lstmfast.LSTM, 11, 16, 1)
    one, same, other = (char_lm.generate(model, torch.tensor([1, 2]), 40, 1.0, seed) for seed in (1, 1, 2))
    assert one == same != other


def test_ngram_by_hand():
    model = Ngram(2, "abab", "abc")
    assert model.probability("a", "") == pytest.approx(4 / 9)  # (2 + 2 * 1/3) / (4 + 2)
    assert model.probability("c", "") == pytest.approx(1 / 9)
    assert model.probability("b", "a") == pytest.approx(22 / 27)  # (2 + 1 * 4/9) / (2 + 1)
    assert model.probability("b", "ca") == model.probability("b", "a")
    assert model.probability("a", "c") == model.probability("a", ""), "an unseen context leaves the shorter one's word"
    expected = -(math.log2(22 / 27) + math.log2(model.probability("c", "b"))) / 2
    assert model.bits_per_token("bc", history="a") == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("context", ["", "a", "the ", "zzzz", "Python", "\n\n"])
def test_ngram_probabilities_sum_to_one(order, context):
    text = corpus.load()
    model = Ngram(order, text.train[:20_000], text.alphabet)
    assert math.fsum(model.probability(character, context) for character in text.alphabet) == pytest.approx(1)


def test_ngram_of_nothing_is_uniform():
    assert Ngram(5, "", "abcd").bits_per_token("abca", history="") == pytest.approx(2)


def test_ngram_refuses():
    with pytest.raises(ValueError, match="at least 1"):
        Ngram(0, "a", "a")
    with pytest.raises(ValueError, match="vocabulary lacks"):
        Ngram(2, "abc", "ab")


def test_bz2_knows_what_it_has_read():
    noise = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 5000)))
    unread = bz2_bits_per_character(noise, history="")
    assert unread == pytest.approx(math.log2(26), rel=0.05)
    assert bz2_bits_per_character(noise, history=noise) < unread / 2


def test_repeated_paragraphs_are_dropped():
    text = "one\ntwo\n\n  indented\n\n\n\none two\n\nlast\n\nindented\n"
    assert corpus.without_repeated_paragraphs(text) == "one\ntwo\n\n  indented\n\nlast\n"


def test_no_paragraph_is_on_both_sides_of_the_split():
    text = corpus.load()
    train, held_out = (
        {" ".join(paragraph.split()) for paragraph in part.split("\n\n")} for part in (text.train, text.held_out)
    )
    assert not train & held_out
    assert len(text.held_out) == pytest.approx(len(text.train) / 9, abs=1)


def test_agreement():
    bits = [3.0, 2.0, 1.0]
    one = LearningCurve(bits, [1.0] * 3)
    assert comparison.agreement(one, one) == comparison.Agreement(None, 0.0)
    apart = comparison.agreement(one, LearningCurve([3.0, 2.0, 1.5], [1.0] * 3))
    assert apart == comparison.Agreement(2, 0.5)
    assert comparison.agreement(one, LearningCurve([3.0, math.nan, 1.0], [1.0] * 3)).first_step_apart == 1


def test_speedup_is_of_whole_turns():
    steps = 4 * comparison.STEPS_PER_TURN
    slow = LearningCurve([0.0] * steps, [3.0] * steps)
    fast = LearningCurve([0.0] * steps, [1.0, 2.0] * (steps // 2))
    assert comparison.speedup(slow, fast) == comparison.Speedup(2.0, 2.0, 2.0)
