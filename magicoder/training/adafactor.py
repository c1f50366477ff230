"""Adafactor: the second moments of a matrix kept as one factor for its rows and one for its columns.

Source: Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235, algorithms 4 and 5 with a given learning rate. Equal
to `transformers.optimization.Adafactor` without scaled parameters, relative steps and a first moment; unlike it, also
over parameters that FSDP2 shards. (`torch.optim.Adafactor` is another algorithm.)

A step passes three times over the parameters. The first pass folds the squared gradients into the moments, the second
measures the update, the third makes it anew and applies it. Between the passes, sums are taken over the processes, of
all sharded parameters at once. So temporary memory is that of the largest parameter, and a step has two collectives.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from magicoder.training.rounding import round_stochastically, rounding_key


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a given learning rate, which the caller sets anew in `param_groups` before every step.

    parameters: float32 or bfloat16; plain, or DTensors on one mesh of one dimension, each replicated or sharded on its
    dimension 0. eps: added to squared gradients. clip_threshold: the greatest root mean square of a parameter's update
    before the learning rate. decay_rate: the second moments' decay in step t is 1 - t**decay_rate.
    weight_decay: the part of a parameter, times the learning rate, that a step takes off.

    State and arithmetic are float32. rounding: how a new value becomes bfloat16. master_weights: keep a float32 copy of
    bfloat16 parameters, which is what is updated and then rounded. seed: of stochastic rounding, not negative.

    update_norm: after a step, the L2 norm of its change to all parameters together, without weight decay and rounding;
    a float32 scalar on the parameters' device.

    Errors: ValueError for a parameter of another kind.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 0.0,
        *,
        eps: float = 1e-30,
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        weight_decay: float = 0.0,
        rounding: str = "nearest",
        master_weights: bool = False,
        seed: int = 0,
    ) -> None:
        options = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "weight_decay": weight_decay,
        }
        super().__init__(parameters, options)
        self.rounding = rounding
        self.master_weights = master_weights
        self.seed = seed
        self.update_norm = self._zero()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own. Errors: ValueError for parameters that the class cannot take."""
        super().add_param_group(param_group)
        for parameter in self._parameters():
            _check_kind(parameter)
        if len({_mesh(parameter) for parameter in self._parameters()} - {None}) > 1:
            raise ValueError("Adafactor takes parameters sharded over one mesh, not over several")

    def initialize_state(self) -> None:
        """Allocate the state of all trainable parameters, for a checkpoint to be loaded into it before the first step.

        Steps do so themselves where it has not been done.
        """
        for parameter in self._parameters():
            if parameter.requires_grad:
                self._initialize(parameter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, in its own precision.

        `Optimizer.load_state_dict` would cast float32 state to the dtype of a bfloat16 parameter.
        """
        super().load_state_dict({**state_dict, "state": {}})
        saved = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = dict(zip(saved, self._parameters(), strict=True))
        for number, entries in state_dict["state"].items():
            device = parameters[number].device
            self.state[parameters[number]] = {
                name: entry.to(device) if isinstance(entry, Tensor) else entry for name, entry in entries.items()
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the parameters that have gradients; never waits for the device. closure: computes the gradients first.

        Errors: ValueError for a gradient that is distributed otherwise than its parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pieces = list(self._pieces())
        sharded = [piece for piece in pieces if piece.mesh is not None]
        squares = [self._zero()]
        for piece in pieces:
            if piece.mesh is None:
                squares += self._advance([piece])
        if sharded:
            squares += self._advance(sharded)
        self.update_norm = torch.stack(squares).sum().sqrt()
        return loss

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _zero(self) -> Tensor:
        return torch.zeros((), device=next(self._parameters()).device)

    def _initialize(self, parameter: Tensor) -> None:
        if parameter not in self.state:
            self.state[parameter] = {"step": 0, **_zero_moments(parameter)}
            if self.master_weights and parameter.dtype == torch.bfloat16:
                self.state[parameter]["master"] = parameter.detach().float()

    def _pieces(self) -> Iterator["_Piece"]:
        """The pieces of all parameters with gradients, their steps counted."""
        members = ((group, parameter) for group in self.param_groups for parameter in group["params"])
        for index, (group, parameter) in enumerate(members):
            if parameter.grad is not None:
                self._initialize(parameter)
                self.state[parameter]["step"] += 1
                yield _piece(index, parameter, self.state[parameter], group)

    def _advance(self, pieces: list["_Piece"]) -> list[Tensor]:
        """Update parameters that are all sharded over one mesh, or all not; return their changes' sums of squares."""
        mesh = pieces[0].mesh
        column_sums = _sum_over(mesh, [piece.fold_gradient() for piece in pieces])
        for piece, sums in zip(pieces, column_sums, strict=True):
            piece.fold_columns(sums)
        squares = _sum_over(mesh, [sum_of_squares(piece.unclipped_update()) for piece in pieces])
        changes = []
        for piece, square in zip(pieces, squares, strict=True):
            rate = piece.rate(square)
            self._store(piece, piece.updated(rate))
            changes.append(square * rate.square())
        return changes

    def _store(self, piece: "_Piece", value: Tensor) -> None:
        if piece.value.dtype == torch.float32:
            return  # updated in place
        if self.rounding == "stochastic":
            value = round_stochastically(value, rounding_key(self.seed, piece.step, piece.index), piece.first)
        piece.value.copy_(value)


@dataclass(frozen=True)
class _Piece:
    """What this process holds of one parameter in one step; tensors are local, without those of other processes.

    index: the parameter's place in the optimizer. shape: of the whole parameter. first: the index in it of the first
    element held here. mesh: what it is sharded over, None if every process holds all of it.
    """

    index: int
    value: Tensor
    gradient: Tensor
    state: dict[str, Tensor]
    step: int
    options: dict[str, Any]
    shape: torch.Size
    first: int
    mesh: DeviceMesh | None

    def fold_gradient(self) -> Tensor:
        """Fold the squared gradient into the moments; return what must be summed over the processes first.

        That is the sums of a matrix's columns, for its rows are what is sharded; nothing of other shapes.
        """
        squares = self.gradient.float().square()
        if len(self.shape) < 2:
            self._fold("second_moment", squares)
            return squares.new_empty(0)
        self._fold("row", squares.mean(dim=-1))
        if len(self.shape) > 2:
            self._fold("column", squares.mean(dim=-2))
            return squares.new_empty(0)
        return squares.sum(dim=-2)

    def fold_columns(self, sums: Tensor) -> None:
        """Fold the sums that `fold_gradient` returned, by now of the whole parameter."""
        if len(self.shape) == 2:
            self._fold("column", sums / self.shape[0])

    def unclipped_update(self) -> Tensor:
        """The update before clipping and the learning rate, float32 of the piece's shape."""
        if len(self.shape) < 2:
            return full_update(self.gradient, self.state["second_moment"])
        return factored_update(self.gradient, self.state["row"], self.state["column"])

    def rate(self, square: Tensor) -> Tensor:
        """The learning rate with the clipping in it. square: the sum of squares of the whole unclipped update."""
        return clipped_rate(self.options["lr"], square, self.shape.numel(), self.options["clip_threshold"])

    def updated(self, rate: Tensor) -> Tensor:
        """The new value in float32, made in place where the old is float32."""
        value = self.state.get("master", self.value).float()
        if self.options["weight_decay"]:
            value.add_(value, alpha=-self.options["lr"] * self.options["weight_decay"])
        return value.addcmul_(self.unclipped_update(), rate, value=-1.0)

    def _fold(self, name: str, mean_squares: Tensor) -> None:
        fold(self.state[name], mean_squares, self.step, self.options["decay_rate"], self.options["eps"])


def fold(moment: Tensor, mean_squares: Tensor, step: int, decay_rate: float, eps: float) -> None:
    """Move a second moment towards this step's mean squares, in place; `mean_squares` is used up.

    step: counted from 1, so that the first one replaces the moment.
    """
    moment.lerp_(mean_squares.add_(eps), float(step) ** decay_rate)


def factored_update(gradient: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The gradient over the root of the moments that the factors stand for: row * column / mean of row.

    gradient: [..., R, C]. row: [..., R], here maybe some of the rows. column: [..., C]. Either factor's mean is the
    mean of all squares; the column factor is whole wherever the row factor is not.
    """
    row_scale = (row / column.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    return (gradient * column.rsqrt().unsqueeze(-2)).mul_(row_scale)


def full_update(gradient: Tensor, second_moment: Tensor) -> Tensor:
    """The gradient over the root of its second moments, float32 of its shape."""
    return second_moment.rsqrt().mul_(gradient)


def sum_of_squares(update: Tensor) -> Tensor:
    """The sum over all elements, a scalar; along the last dimension first, which loses less to rounding."""
    return torch.linalg.vector_norm(update, dim=-1).square_().sum()


def clipped_rate(rate: float, square: Tensor, elements: int, threshold: float) -> Tensor:
    """The learning rate over max(1, RMS / threshold), a scalar. square: the sum of squares of the update."""
    root_mean_square = (square / elements).sqrt_()
    return rate / (root_mean_square / threshold).clamp_(min=1.0)


def _piece(index: int, parameter: Any, state: dict[str, Any], options: dict[str, Any]) -> _Piece:
    gradient = parameter.grad
    if isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        raise ValueError(f"a gradient is {gradient.placements}, its parameter {parameter.placements}")
    mesh = _mesh(parameter)
    return _Piece(
        index,
        value=_local(parameter.detach()),
        gradient=_local(gradient),
        state={name: _local(entry) for name, entry in state.items() if name != "step"},
        step=state["step"],
        options=options,
        shape=parameter.shape,
        first=_first_element(parameter.shape, mesh) if mesh else 0,
        mesh=mesh,
    )


def _first_element(shape: torch.Size, mesh: DeviceMesh) -> int:
    # Every shard but the last ones has the same number of rows.
    rows = -(-shape[0] // mesh.size())
    return rows * mesh.get_local_rank() * shape[1:].numel()


def _check_kind(parameter: Tensor) -> None:
    if parameter.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"Adafactor takes float32 and bfloat16 parameters, not {parameter.dtype}")
    if isinstance(parameter, DTensor):
        placements = parameter.placements
        if len(placements) != 1 or placements[0] not in (Shard(0), Replicate()):
            raise ValueError(
                "Adafactor takes parameters replicated or sharded on dimension 0 over a mesh of one dimension, "
                f"not {placements} over {parameter.device_mesh}"
            )


def _mesh(parameter: Tensor) -> DeviceMesh | None:
    """What the parameter is sharded over."""
    return parameter.device_mesh if isinstance(parameter, DTensor) and parameter.placements[0].is_shard() else None


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _zero_moments(parameter: Tensor) -> dict[str, Tensor]:
    shape = parameter.shape
    if len(shape) < 2:
        return {"second_moment": _zeros(parameter, shape)}
    # Summed over the rows of all shards, the column factor of a matrix is the same in every process.
    return {
        "row": _zeros(parameter, shape[:-1]),
        "column": _zeros(parameter, shape[:-2] + shape[-1:], replicated=len(shape) == 2),
    }


def _zeros(parameter: Tensor, shape: torch.Size, replicated: bool = False) -> Tensor:
    """Float32 zeros, distributed as the parameter is unless replicated."""
    if not isinstance(parameter, DTensor):
        return torch.zeros(shape, device=parameter.device)
    local = parameter.to_local()
    placements = [Replicate()] if replicated else parameter.placements
    here = torch.Size([local.shape[0], *shape[1:]]) if placements[0].is_shard() else shape
    # Where the parameter's shard is, which is not the mesh's device where parameters wait in the machine's memory.
    zeros = torch.zeros(here, device=local.device)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(zeros, parameter.device_mesh, placements, run_check=False, shape=shape, stride=stride)


def _sum_over(mesh: DeviceMesh | None, parts: list[Tensor]) -> list[Tensor]:
    """Each tensor's sum over the processes of the mesh, all in one collective."""
    if mesh is None:
        return parts
    flat = torch.cat([part.flatten() for part in parts])
    distributed.all_reduce(flat, group=mesh.get_group())
    sums = torch.split(flat, [part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]
