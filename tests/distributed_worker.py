"""One of the two processes of test_distributed.py; torchrun starts it as `distributed_worker.py MODE DIR`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import lstmfast

ROUNDING = {"rtol": 1e-9, "atol": 1e-11}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = lstmfast.LSTM(6, 8, 2, bidirectional=True, proj_size=4, dtype=torch.float64)
        self.second = lstmfast.RNN(8, 10, dtype=torch.float64)
        self.read_out = nn.Linear(10, 3, dtype=torch.float64)

    def forward(self, x):
        return self.read_out(self.second(self.first(x)[0])[0])


def train(model, x, target, steps=3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), target).backward()
        optimizer.step()


def full(model):
    """The state_dict with shards put together."""
    return {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.state_dict().items()}


def main(mode: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    alone, shared = Model(), Model()
    shared.load_state_dict(alone.state_dict())
    x, target = torch.randn(7, 4, 6, dtype=torch.float64), torch.randn(7, 4, 3, dtype=torch.float64)
    mine = slice(rank * 4 // size, (rank + 1) * 4 // size)
    train(alone, x, target)

    if mode == "ddp":
        wrapped = DistributedDataParallel(shared)
        train(wrapped, x[:, mine], target[:, mine])
        results = full(shared)
    else:
        mesh = init_device_mesh("cpu", (size,))
        for module in (shared.first, shared.second, shared):
            fully_shard(module, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in shared.parameters())
        train(shared, x[:, mine], target[:, mine])
        dcp.save(get_model_state_dict(shared), checkpoint_id=folder / "sharded")
        again = Model()
        for module in (again.first, again.second, again):
            fully_shard(module, mesh=mesh)
        state = get_model_state_dict(again)
        dcp.load(state, checkpoint_id=folder / "sharded")
        set_model_state_dict(again, state)
        results = full(again)
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(results[name], expected, **ROUNDING, msg=lambda text, n=name: f"{n}: {text}")
    print(f"{mode} {rank} agrees", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
