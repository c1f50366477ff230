"""Gradients over an update: summed in float32, complete with the last micro-batch, clipped to a norm."""

import pytest
import torch

from magicoder.training.distributed import World
from magicoder.training.gradients import Gradients

MICRO_BATCHES = 300


def model(dtype: torch.dtype = torch.bfloat16) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(16, 8).to(dtype)


def losses(module: torch.nn.Linear) -> list[torch.Tensor]:
    """Of so many micro-batches that a sum in bfloat16, of 8 bits, stops growing."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(MICRO_BATCHES, 4, 16, generator=generator).to(module.weight.dtype)
    return [module(part).float().sum() for part in inputs]


def test_gradients_of_bfloat16_parameters_are_summed_in_float32(world: World) -> None:
    module = model()
    parts = [torch.autograd.grad(loss, list(module.parameters())) for loss in losses(module)]
    expected = [torch.stack(of_one).float().sum(dim=0) for of_one in zip(*parts, strict=True)]

    gradients = Gradients(module, world, once=True)
    for place, loss in enumerate(losses(module)):
        gradients.add(loss, last=place == MICRO_BATCHES - 1)
    for parameter, total in zip(module.parameters(), expected, strict=True):
        assert parameter.dtype == torch.bfloat16
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, total, rtol=1e-6, atol=0)

    # What autograd does by itself is far from it.
    plain = model()
    for loss in losses(plain):
        loss.backward()
    assert plain.weight.grad is not None
    assert ((plain.weight.grad.float() - expected[0]).abs() / expected[0]).max() > 0.05


def test_the_next_update_begins_with_nothing(world: World) -> None:
    module = model(torch.float32)
    gradients = Gradients(module, world, once=True)
    first, second = losses(module)[:2]
    gradients.add(first, last=True)
    gradients.clear()
    assert all(parameter.grad is None for parameter in module.parameters())
    gradients.add(second, last=True)
    expected = torch.autograd.grad(losses(module)[1], list(module.parameters()))
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_above_the_norm_are_scaled_and_others_stay(world: World) -> None:
    module = model()
    gradients = Gradients(module, world, once=True)
    gradients.add(losses(module)[0], last=True)
    before = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in before]).norm().item()

    gradients.clip(2 * norm)
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)
    gradients.clip(norm / 3)
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient / 3, rtol=1e-5, atol=0)


def test_frozen_parameters_are_clipped_without_gradients(world: World) -> None:
    module = model()
    module.bias.requires_grad_(False)
    gradients = Gradients(module, world, once=True)
    gradients.add(losses(module)[0], last=True)
    gradients.clip(1.0)
    assert module.bias.grad is None
    assert module.weight.grad is not None
    assert module.weight.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
