"""Performer attention: upstream's result with its epsilon, and no overflow in FP16."""

import torch

from models.token_attention import MAX_HALF_SQUARE, half_square, performer_attention


def upstream(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    def phi(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x @ w.t() - x.square().sum(-1, keepdim=True) / 2) / w.shape[0] ** 0.5

    key, query = phi(k), phi(q)
    normaliser = (query * key.sum(1, keepdim=True)).sum(2, keepdim=True)
    return query @ (key.transpose(1, 2) @ v) / (normaliser + eps)


def draw(scale: float, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 196, 64, generator=generator, dtype=torch.float64) * scale for _ in range(3))
    w = torch.nn.init.orthogonal_(torch.empty(32, 64, dtype=torch.float64), generator=generator) * 32**0.5
    return q, k, v, w


def test_equals_upstream_where_epsilon_counts_and_where_it_does_not() -> None:
    for scale in (0.01, 0.3, 0.7, 1.0):
        q, k, v, w = draw(scale)
        expected = upstream(q, k, v, w)
        difference = (performer_attention(q, k, v, w) - expected).abs().max()
        assert difference < 1e-12 * max(1.0, float(v.abs().max())), f"scale {scale}: max {difference:.2e}"
    with_epsilon, without = upstream(*draw(1.0)), upstream(*draw(1.0), eps=0.0)
    assert (with_epsilon - without).abs().max() > 0.1, "at scale 1 the epsilon decides: these inputs would not show it"


def test_finite_in_fp16_where_upstreams_form_is_not() -> None:
    q, k, v, w = draw(0.3)
    k[:, 0] = w[0]  # exponent |w|²/2 = 16: e^16 is far over 65504
    q[:, 0] = w[0]
    half = [part.half() for part in (q, k, v, w)]
    assert not upstream(*half).isfinite().all()
    ours, expected = performer_attention(*half), upstream(q, k, v, w)
    assert ours.isfinite().all()
    assert (ours.double() - expected).abs().max() < 0.02 * expected.abs().max()


def test_huge_inputs_give_zero_not_nan_in_fp16() -> None:
    q, k, v, w = (part.half() for part in draw(1.0))
    ours = performer_attention(q * 60, k * 60, v, w)  # |x|² is over 65504
    assert ours.isfinite().all()
    assert float(half_square(q * 200).max()) <= MAX_HALF_SQUARE


def test_gradients_are_finite_where_every_feature_underflows() -> None:
    q, k, v, w = (part.float() for part in draw(1.0))
    q, k, v = ((part * 8).requires_grad_() for part in (q, k, v))  # |x|²/2 of 2000: upstream's features are all 0
    performer_attention(q, k, v, w).sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in (q, k, v))
