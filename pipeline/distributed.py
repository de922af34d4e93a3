"""One process, or the several that `torchrun` starts: which one this is, and what they do together."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

PATIENCE = timedelta(hours=2)  # the others wait while rank 0 checks a large set on a slow disk; torchrun ends the lost


@dataclass(frozen=True)
class World:
    """This process (`rank` of `size`) and its device. Rank 0 is the one that writes files."""

    rank: int
    size: int
    device: torch.device

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Tensor) -> list[float]:
        """One number of each process, in order of rank, to the last bit."""
        values = torch.zeros(self.size, dtype=value.dtype, device=value.device)
        values[self.rank] = value
        return [float(found) for found in self.total(values)]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process rank 0's buffers (batch-norm statistics): all measure the network that is saved."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


_joined = itertools.count()


def _fresh_store() -> Store:
    """torchrun's store under a name of its own for each time that processes join.

    The store outlives a group: joining again, a fast process would find the others' old addresses in it.
    """
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return PrefixStore(f"world_{next(_joined)}", store)


@contextmanager
def open_world() -> Iterator[World]:
    """Join the processes of torchrun (gloo on CPUs, NCCL on GPUs) where it started this one; leave them afterwards."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    joins = size > 1 and not dist.is_initialized()
    if joins:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_fresh_store(), rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(rank, size, device)
    finally:
        if joins:
            dist.destroy_process_group()
