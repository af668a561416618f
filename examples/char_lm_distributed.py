"""The character language model of char_lm.py, trained by several processes, which goes on where it was interrupted.

    torchrun --standalone --nproc-per-node=2 --max-restarts=3 examples/char_lm_distributed.py

Every process reads its own part of each batch, DistributedDataParallel averages the gradients. Now and then the first
process writes a checkpoint: weights, optimizer, schedule, the states that the text is read with, and the place in it.
When a process dies, torchrun starts all of them again, and they go on from there, to the same weights as without the
interruption. `--die-at-step N` kills one, to see it happen.
"""

import argparse
import itertools
import math
import os
import signal
from pathlib import Path

import corpus
import torch
import torch.distributed as dist
from char_lm import language_model, learning_rate_factor
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lstmfast
from lstmfast.study.models.language_model import batches, detached


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a character-level language model with several processes; run by torchrun.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text; else Python's language reference")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size")
    parser.add_argument("--layers", type=int, default=1, help="number of recurrent layers")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch, of all processes together")
    parser.add_argument("--length", type=int, default=100, help="characters in a sequence")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--lr", type=float, default=1e-2, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument("--checkpoint-every", type=int, default=50, metavar="STEPS", help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=Path("build/demo-distributed"), metavar="DIR", help="checkpoints")
    parser.add_argument("--die-at-step", type=int, metavar="N", help="kill a process there, in the first attempt")
    return parser.parse_args()


def save(path: Path, checkpoint: dict) -> None:
    """A process may die at any time: the old checkpoint stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    torch.save(checkpoint, fresh)
    fresh.replace(path)


def gathered(state: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The state of every process, on each."""
    states: list[tuple[Tensor, ...]] = [()] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def main() -> None:
    options = parse_options()
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(options.seed)

    text = corpus.load(options.text)
    index = {character: i for i, character in enumerate(text.alphabet)}
    train = torch.tensor([index[character] for character in text.train])

    model = language_model(lstmfast.LSTM, len(text.alphabet), options.hidden, options.layers)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, options.steps))
    state, step, losses = None, 0, []

    path = options.out / "checkpoint.pt"
    if path.exists():
        checkpoint = torch.load(path)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule.load_state_dict(checkpoint["schedule"])
        state, step, losses = checkpoint["states"][rank], checkpoint["step"], checkpoint["losses"]
        if rank == 0:
            print(f"resuming after step {step}", flush=True)

    mine = slice(rank * options.batch // size, (rank + 1) * options.batch // size)
    for inputs, targets, text_begins in itertools.islice(
        batches(train, options.batch, options.length), step, options.steps
    ):
        logits, state = parallel(inputs[:, mine], None if text_begins else state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, mine].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        state = detached(state)
        step += 1

        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / size / math.log(2))
        if step % options.checkpoint_every == 0 or step == options.steps:
            states = gathered(state)
            if rank == 0:
                save(
                    path,
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "states": states,
                        "step": step,
                        "losses": losses,
                    },
                )
                print(f"step {step}: {losses[-1]:.3f} bits per character", flush=True)
        if step == options.die_at_step and rank == size - 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
