"""Load the weights in one process and place them on all devices."""

from collections.abc import Callable
from typing import Any

from magicoder.training.distributed import World
from magicoder.training.loss import LossModule
from magicoder.training.sharding import broadcast_weights


class WeightLoader:
    """A model that the first process holds in memory until every process has its part."""

    def __init__(self, world: World, load: Callable[[], Any]) -> None:
        """Call `load` in the first process. Errors: its UserError or OSError, in every process."""
        self._world = world
        self.model: Any = None
        self.configurations = world.run_on_first(lambda: self._load(load))

    def _load(self, load: Callable[[], Any]) -> tuple[Any, Any]:
        self.model = load()
        return self.model.config, self.model.generation_config

    def make_model(self, build_empty: Callable[[Any], Any]) -> Any:
        """Return the loaded model in a single process, else one without values from its configuration."""
        if self._world.kind == "one":
            return self.model
        configuration, generation_configuration = self.configurations
        model = build_empty(configuration)
        model.generation_config = generation_configuration
        return model

    def place(self, loss_module: LossModule) -> None:
        """Move a module around the model of `make_model` to the devices, with its weights."""
        if self._world.kind == "one":
            loss_module.to(self._world.device)
            return
        if self._world.kind == "fsdp":
            self._world.fabric.setup_module(loss_module, move_to_device=False)
        else:
            loss_module.to_empty(device=self._world.device)
            loss_module.model.tie_weights()
        weights = {}
        if self.model is not None:
            named = {**self.model.state_dict(), **dict(self.model.named_buffers())}
            weights = {f"model.{name}": tensor for name, tensor in named.items()}
        broadcast_weights(loss_module, weights, self._world.device)
        self.model = None
