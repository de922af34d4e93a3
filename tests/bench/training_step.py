"""A training step of the convolution form or of the literal-unfold form: what `make bench-train` and `make bench-gpu` time.

Images are random numbers: a step's time does not depend on them. Dropout is off in both forms: the literal one writes none of
it out.
"""

from typing import Literal, get_args

import timm
import torch
from literal import literal
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import models  # noqa: F401  (registers the models)

Form = Literal["literal", "ours"]
FORMS: tuple[Form, ...] = get_args(Form)


class Step:
    """Forward, loss, backward and AdamW of one form; `amp` is bfloat16 autocast, `compiler` a backend of torch.compile."""

    def __init__(
        self, name: str, form: Form, *, size: int, batch: int, device: torch.device, amp: bool, world: int = 1,
        compiler: str | None = None,
    ):  # fmt: skip
        torch.manual_seed(0)
        model = timm.create_model(name, img_size=size).train().to(device)
        self.model: nn.Module = literal(model).to(device) if form == "literal" else model
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.network: nn.Module = DistributedDataParallel(self.model) if world > 1 else self.model
        if compiler is not None:
            self.network = torch.compile(self.network, backend=compiler, dynamic=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.images = torch.randn(batch, 3, size, size, device=device)
        self.labels = torch.randint(0, 1000, (batch,), device=device)
        self.device, self.amp = device, amp

    def __call__(self) -> Tensor:
        """The loss, (); on a GPU the step may still be going on."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = nn.functional.cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
