"""Adafactor: store the second moments of a matrix as one factor for its rows and one for its columns.

Source: Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235, algorithms 4 and 5 with a given learning rate. Equal
to `transformers.optimization.Adafactor` without scaled parameters, relative steps and a first moment; unlike it, also
over parameters that FSDP2 shards. (`torch.optim.Adafactor` is another algorithm.)

A step passes over the parameters three times. The first pass accumulates the squared gradients into the moments, the
second measures the update, the third recomputes and applies it. Between the passes, sums over the processes are taken
for all sharded parameters at once. So temporary memory is that of the largest parameter, and a step has two
collectives.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from magicoder.training.rounding import derive_key, round_stochastically


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a given learning rate, which the caller sets in `param_groups` before every step.

    parameters: float32 or bfloat16; plain, or DTensors on one mesh of one dimension, each replicated or sharded on its
    dimension 0. eps: added to squared gradients. clip_threshold: maximum root mean square of a parameter's update
    before the learning rate. decay_rate: the second moments' decay in step t is 1 - t**decay_rate.
    weight_decay: the share of a parameter, times the learning rate, that a step subtracts.

    State and arithmetic are float32. rounding: of a new value to bfloat16, `nearest` or `stochastic`. master_weights:
    update a float32 copy of bfloat16 parameters, then round it. seed: of stochastic rounding, not negative.

    update_norm: after a step, the L2 norm of its change to all parameters together, without weight decay and rounding;
    a float32 scalar on the parameters' device.

    Errors: ValueError for a parameter of another kind.

    Example:
        optimizer = Adafactor(model.parameters(), lr=5e-5)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
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
        self.update_norm = self._make_zero()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options. Errors: ValueError for parameters of another kind."""
        super().add_param_group(param_group)
        for parameter in self._iterate_parameters():
            _check_kind(parameter)
        if len({_find_mesh(parameter) for parameter in self._iterate_parameters()} - {None}) > 1:
            raise ValueError("Adafactor takes parameters sharded over one mesh, not over several")

    def initialize_state(self) -> None:
        """Allocate the state of all trainable parameters, so that a checkpoint can be loaded before the first step.

        A step does this itself for parameters without state.
        """
        for parameter in self._iterate_parameters():
            if parameter.requires_grad:
                self._initialize(parameter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict` in its own precision.

        `Optimizer.load_state_dict` would cast float32 state to the dtype of a bfloat16 parameter.
        """
        super().load_state_dict({**state_dict, "state": {}})
        saved = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = dict(zip(saved, self._iterate_parameters(), strict=True))
        for number, entries in state_dict["state"].items():
            device = parameters[number].device
            self.state[parameters[number]] = {
                name: entry.to(device) if isinstance(entry, Tensor) else entry for name, entry in entries.items()
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that have gradients, without waiting for the device. closure: computes the gradients.

        Errors: ValueError for a gradient with another placement than its parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pieces = list(self._make_pieces())
        sharded = [piece for piece in pieces if piece.mesh is not None]
        squares = [self._make_zero()]
        for piece in pieces:
            if piece.mesh is None:
                squares += self._advance([piece])
        if sharded:
            squares += self._advance(sharded)
        self.update_norm = torch.stack(squares).sum().sqrt()
        return loss

    def _iterate_parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _make_zero(self) -> Tensor:
        return torch.zeros((), device=next(self._iterate_parameters()).device)

    def _initialize(self, parameter: Tensor) -> None:
        if parameter not in self.state:
            self.state[parameter] = {"step": 0, **_make_moments(parameter)}
            if self.master_weights and parameter.dtype == torch.bfloat16:
                self.state[parameter]["master"] = parameter.detach().float()

    def _make_pieces(self) -> Iterator["_Piece"]:
        """Yield the pieces of all parameters with gradients, and count their steps."""
        members = ((group, parameter) for group in self.param_groups for parameter in group["params"])
        for index, (group, parameter) in enumerate(members):
            if parameter.grad is not None:
                self._initialize(parameter)
                self.state[parameter]["step"] += 1
                yield _make_piece(index, parameter, self.state[parameter], group)

    def _advance(self, pieces: list["_Piece"]) -> list[Tensor]:
        """Update parameters that are all sharded over one mesh, or all whole; return the sums of squares of the
        changes."""
        mesh = pieces[0].mesh
        column_sums = _sum_over(mesh, [piece.accumulate_gradient() for piece in pieces])
        for piece, sums in zip(pieces, column_sums, strict=True):
            piece.accumulate_columns(sums)
        squares = _sum_over(mesh, [sum_squares(piece.compute_unclipped()) for piece in pieces])
        changes = []
        for piece, square in zip(pieces, squares, strict=True):
            rate = piece.compute_rate(square)
            self._store(piece, piece.apply(rate))
            changes.append(square * rate.square())
        return changes

    def _store(self, piece: "_Piece", value: Tensor) -> None:
        if piece.value.dtype == torch.float32:
            return  # updated in place
        if self.rounding == "stochastic":
            value = round_stochastically(value, derive_key(self.seed, piece.step, piece.index), piece.first)
        piece.value.copy_(value)


@dataclass(frozen=True)
class _Piece:
    """This process's part of one parameter in one step; tensors are local.

    index: of the parameter in the optimizer. shape: of the whole parameter. first: index of the first local element in
    the whole parameter. mesh: over which it is sharded, None if every process has all of it.
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

    def accumulate_gradient(self) -> Tensor:
        """Accumulate the squared gradient into the moments; return the part that must first be summed over processes.

        That is the column sums of a matrix, whose rows are sharded; it is empty for other shapes.
        """
        squares = self.gradient.float().square()
        if len(self.shape) < 2:
            self._accumulate("second_moment", squares)
            return squares.new_empty(0)
        self._accumulate("row", squares.mean(dim=-1))
        if len(self.shape) > 2:
            self._accumulate("column", squares.mean(dim=-2))
            return squares.new_empty(0)
        return squares.sum(dim=-2)

    def accumulate_columns(self, sums: Tensor) -> None:
        """Accumulate the column sums of the whole parameter, see `accumulate_gradient`."""
        if len(self.shape) == 2:
            self._accumulate("column", sums / self.shape[0])

    def compute_unclipped(self) -> Tensor:
        """Return the update before clipping and learning rate, float32 of the piece's shape."""
        if len(self.shape) < 2:
            return compute_full(self.gradient, self.state["second_moment"])
        return compute_factored(self.gradient, self.state["row"], self.state["column"])

    def compute_rate(self, square: Tensor) -> Tensor:
        """Return the learning rate including clipping. square: sum of squares of the whole unclipped update."""
        return clip_rate(self.options["lr"], square, self.shape.numel(), self.options["clip_threshold"])

    def apply(self, rate: Tensor) -> Tensor:
        """Return the new value in float32, computed in place where the old one is float32."""
        value = self.state.get("master", self.value).float()
        if self.options["weight_decay"]:
            value.add_(value, alpha=-self.options["lr"] * self.options["weight_decay"])
        return value.addcmul_(self.compute_unclipped(), rate, value=-1.0)

    def _accumulate(self, name: str, mean_squares: Tensor) -> None:
        accumulate(self.state[name], mean_squares, self.step, self.options["decay_rate"], self.options["eps"])


def accumulate(moment: Tensor, mean_squares: Tensor, step: int, decay_rate: float, eps: float) -> None:
    """Move a second moment toward this step's mean squares, in place; `mean_squares` is overwritten.

    step: counted from 1, so the first step replaces the moment.
    """
    moment.lerp_(mean_squares.add_(eps), float(step) ** decay_rate)


def compute_factored(gradient: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the gradient over the root of the moments row * column / mean(row).

    gradient: [..., R, C]. row: [..., R], possibly a shard of the rows. column: [..., C], always whole. Both factors
    have the same mean, that of all squares, so the mean of the whole column replaces that of the sharded row.
    """
    row_scale = (row / column.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    return (gradient * column.rsqrt().unsqueeze(-2)).mul_(row_scale)


def compute_full(gradient: Tensor, second_moment: Tensor) -> Tensor:
    """Return the gradient over the root of its second moments, float32 of its shape."""
    return second_moment.rsqrt().mul_(gradient)


def sum_squares(update: Tensor) -> Tensor:
    """Return the sum over all elements, a scalar; along the last dimension first, which rounds less."""
    return torch.linalg.vector_norm(update, dim=-1).square_().sum()


def clip_rate(rate: float, square: Tensor, elements: int, threshold: float) -> Tensor:
    """Return the learning rate over max(1, RMS / threshold), a scalar. square: sum of squares of the update."""
    root_mean_square = (square / elements).sqrt_()
    return rate / (root_mean_square / threshold).clamp_(min=1.0)


def _make_piece(index: int, parameter: Any, state: dict[str, Any], options: dict[str, Any]) -> _Piece:
    gradient = parameter.grad
    if isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        raise ValueError(f"a gradient is {gradient.placements}, its parameter {parameter.placements}")
    mesh = _find_mesh(parameter)
    return _Piece(
        index,
        value=_take_local(parameter.detach()),
        gradient=_take_local(gradient),
        state={name: _take_local(entry) for name, entry in state.items() if name != "step"},
        step=state["step"],
        options=options,
        shape=parameter.shape,
        first=_find_first_element(parameter.shape, mesh) if mesh else 0,
        mesh=mesh,
    )


def _find_first_element(shape: torch.Size, mesh: DeviceMesh) -> int:
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


def _find_mesh(parameter: Tensor) -> DeviceMesh | None:
    """Return the mesh over which the parameter is sharded, None if it is whole."""
    return parameter.device_mesh if isinstance(parameter, DTensor) and parameter.placements[0].is_shard() else None


def _take_local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _make_moments(parameter: Tensor) -> dict[str, Tensor]:
    shape = parameter.shape
    if len(shape) < 2:
        return {"second_moment": _make_zeros(parameter, shape)}
    # The column factor sums over the rows of all shards, so it is the same in every process.
    return {
        "row": _make_zeros(parameter, shape[:-1]),
        "column": _make_zeros(parameter, shape[:-2] + shape[-1:], replicated=len(shape) == 2),
    }


def _make_zeros(parameter: Tensor, shape: torch.Size, replicated: bool = False) -> Tensor:
    """Return float32 zeros with the placement of the parameter, unless replicated."""
    if not isinstance(parameter, DTensor):
        return torch.zeros(shape, device=parameter.device)
    local = parameter.to_local()
    placements = [Replicate()] if replicated else parameter.placements
    here = torch.Size([local.shape[0], *shape[1:]]) if placements[0].is_shard() else shape
    # On the shard's device, which is not the mesh's device with CPU offloading.
    zeros = torch.zeros(here, device=local.device)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(zeros, parameter.device_mesh, placements, run_check=False, shape=shape, stride=stride)


def _sum_over(mesh: DeviceMesh | None, parts: list[Tensor]) -> list[Tensor]:
    """Sum each tensor over the processes of the mesh, all in one collective."""
    if mesh is None:
        return parts
    flat = torch.cat([part.flatten() for part in parts])
    distributed.all_reduce(flat, group=mesh.get_group())
    sums = torch.split(flat, [part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]
