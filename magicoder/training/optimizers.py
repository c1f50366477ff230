"""The registry of optimizers. Adding one is a module with its class, a function that builds it, and one line here."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from magicoder.config import RecipeConfig

# The stage validates names against the registry before any work, so the registry must not import torch.
if TYPE_CHECKING:
    import torch


class Optimizer(Protocol):
    """What the training needs of an optimizer, besides `torch.optim.Optimizer`.

    update_norm: after a step, the L2 norm of its change to all parameters together; a scalar on their device.
    """

    param_groups: list[dict[str, Any]]
    state: Any
    update_norm: "torch.Tensor"

    def step(self) -> Any:
        """Change the parameters that have gradients."""

    def initialize_state(self) -> None:
        """Allocate the state of all trainable parameters, so that a checkpoint can be loaded into it."""


def build_adafactor(parameters: "Iterable[torch.nn.Parameter]", recipe: RecipeConfig) -> Optimizer:
    """Build our Adafactor with the recipe's rounding."""
    from magicoder.training.adafactor import Adafactor

    return Adafactor(parameters, rounding=recipe.rounding, master_weights=recipe.master_weights, seed=recipe.seed)


OPTIMIZERS: dict[str, Callable[["Iterable[torch.nn.Parameter]", RecipeConfig], Optimizer]] = {
    "adafactor": build_adafactor,
}
"""The values of `train.optim`: a function that builds the optimizer from parameters and recipe."""
