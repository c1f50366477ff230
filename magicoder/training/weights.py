"""The model and its objective on the devices."""

from collections.abc import Callable
from typing import Any

from magicoder.training.distributed import World
from magicoder.training.loss import LossModule
from magicoder.training.sharding import fill


class WeightLoader:
    """A model that the first of several processes holds in memory, until all have what they need of it."""

    def __init__(self, world: World, load: Callable[[], Any]) -> None:
        """Errors: whatever `load` raises in the first process, UserError or OSError, in every one."""
        self._cluster = world
        self.model: Any = None
        self.configurations = world.on_first(lambda: self._loaded(load))

    def _loaded(self, load: Callable[[], Any]) -> tuple[Any, Any]:
        self.model = load()
        return self.model.config, self.model.generation_config

    def model_to_place(self, empty: Callable[[Any], Any]) -> Any:
        """The loaded model where there is one process; else one that `empty` makes from its configuration."""
        if self._cluster.kind == "one":
            return self.model
        configuration, generation_configuration = self.configurations
        model = empty(configuration)
        model.generation_config = generation_configuration
        return model

    def place(self, loss_module: LossModule) -> None:
        """Bring an objective of `model_to_place` onto the devices, and the weights with it."""
        if self._cluster.kind == "one":
            loss_module.to(self._cluster.device)
            return
        if self._cluster.kind == "fsdp":
            self._cluster.fabric.setup_module(loss_module, move_to_device=False)
        else:
            loss_module.to_empty(device=self._cluster.device)
            loss_module.model.tie_weights()
        weights = {}
        if self.model is not None:
            named = {**self.model.state_dict(), **dict(self.model.named_buffers())}
            weights = {f"model.{name}": tensor for name, tensor in named.items()}
        fill(loss_module, weights, self._cluster.device)
        self.model = None
