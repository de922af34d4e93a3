"""One process, or several that `torchrun` started: which one this is, and what they exchange."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

# How long processes wait for each other: rank 0 may check a large data set on a slow disk. When one dies, torchrun ends
# the others.
PATIENCE = timedelta(hours=2)
_POLL_SECONDS = 0.05


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
        """One number from each process, exactly, in order of rank."""
        values = torch.zeros(self.size, dtype=value.dtype, device=value.device)
        values[self.rank] = value
        return [float(found) for found in self.total(values)]

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier()

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process rank 0's buffers (batch-norm statistics), so that all evaluate the network that is saved."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def _fresh_store(rank: int, size: int) -> Store:
    """torchrun's store, under a new prefix each time that processes join.

    The store outlives processes that were killed: those that torchrun starts again would find the old ones' addresses.
    """
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return PrefixStore(_agree(store, rank, size), store)


def _agree(store: Store, rank: int, size: int) -> str:
    """A prefix that exactly these processes agree on, whatever earlier ones left in the store.

    Rank 0 offers a new name. Each other process answers under that name with a random word, and accepts the name once
    rank 0 has repeated its word.
    """
    mine = secrets.token_hex(8)
    if rank == 0:
        store.set("offer", mine)
        words = [store.get(f"{mine}/{other}").decode() for other in range(1, size)]  # get waits for the key
        store.set(f"{mine}/all", " ".join(words))
        return mine
    answered, deadline = "", time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        name = store.get("offer").decode()
        if name != answered:
            store.set(f"{name}/{rank}", mine)
            answered = name
        if store.check([f"{name}/all"]) and mine in store.get(f"{name}/all").decode().split():
            return name
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"process {rank} of {size} found no process 0 within {PATIENCE}")


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
        dist.init_process_group(backend, store=_fresh_store(rank, size), rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(rank, size, device)
    finally:
        if joins:
            dist.destroy_process_group()
