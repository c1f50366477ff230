"""The documented optimizer."""

from collections.abc import Iterable

import torch


def adafactor(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adafactor as the recipe has it: a given learning rate, unscaled; factored second moments, no first, no decay.

    State and arithmetic are float32; a bfloat16 parameter is rounded back. `torch.optim.Adafactor` is another
    algorithm. Source: Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235.
    """
    from transformers.optimization import Adafactor

    # The learning rate is set anew before every step.
    return Adafactor(parameters, lr=0.0, scale_parameter=False, relative_step=False)
