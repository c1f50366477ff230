"""Lay out the sequences of an update in tensors, and assign them to devices.

Every device gets equally many micro-batches: with sharded parameters each pass needs all devices.
"""

from dataclasses import dataclass, replace

import numpy
import torch
from numpy.typing import NDArray

from magicoder.training.packing import pack
from magicoder.training.plan import Plan, compute_token_weights
from magicoder.training.tokenization import Sequences

DEFAULT_BIN_SIZES = {"cuda": 4096, "cpu": 1024}
"""Defaults: enough to keep a GPU busy; few on a CPU, whose caches hold no more."""


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward and backward pass.

    input_ids: int64 [sequences, tokens]. position_ids: int64 [1, tokens] if documents share a sequence, else None:
    padding is on the right, where causal attention hides it from every other token, so it needs no mask.
    documents: int32 [documents + 1], the start of each document of a packed bin and the end of the last; else None.
    longest: tokens of the longest document.
    predicting: int64 [predictions], positions whose next token is supervised in any sequence: others need no logits.
    targets: int64 [sequences, predictions], those next tokens. weights: float32 [sequences, predictions], the weight of
    each in the update's loss, 0 where the token is not supervised in this sequence.
    rows: numbers of the rows.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    documents: torch.Tensor | None
    longest: int
    predicting: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy to `device` without making the host wait."""
        if device.type == "cpu":
            return self
        names = ("input_ids", "position_ids", "documents", "predicting", "targets", "weights")
        tensors = {name: getattr(self, name) for name in names}
        moved = {
            name: tensor.pin_memory().to(device, non_blocking=True)
            for name, tensor in tensors.items()
            if tensor is not None
        }
        return replace(self, **moved)


def choose_bin_size(chosen: int | None, longest: int, device: torch.device) -> int:
    """Return the most tokens of a bin: as `chosen`, else the device's default, or the `longest` sequence."""
    return max(DEFAULT_BIN_SIZES[device.type], longest) if chosen is None else chosen


@dataclass(frozen=True)
class Layout:
    """The layout of updates. kind: `padded`, or `packed` into bins of at most `tokens_per_device` tokens.

    loss: the kind of mean, see `compute_token_weights`. pad_token_id: any token; its weight is zero.

    Example:
        layout = Layout("packed", tokens_per_device=4096, loss="micro_mean", pad_token_id=0)
        batches = layout.lay_out(sequences, plan, update=0)
    """

    kind: str
    tokens_per_device: int
    loss: str
    pad_token_id: int

    def lay_out(
        self, sequences: Sequences, plan: Plan, update: int, device: int = 0, devices: int = 1
    ) -> list[MicroBatch]:
        """Return the micro-batches of device number `device` for an update, both counted from 0."""
        planned = plan.list_micro_batches(update)
        rows = numpy.concatenate(planned)
        weights = compute_token_weights(self.loss, planned, sequences.count_supervised(rows))
        # Positions in the update, not rows: an update that spans two epochs may have a row twice.
        if self.kind == "packed":
            shares = _pack_bins(sequences, rows, self.tokens_per_device, devices)
        else:
            starts = numpy.cumsum([len(micro_batch) for micro_batch in planned])
            shares = numpy.split(numpy.arange(len(rows)), starts[:-1])
            shares += [numpy.empty(0, numpy.int64)] * (-len(shares) % devices)
        build = build_packed if self.kind == "packed" else build_padded
        return [
            build(sequences, rows[positions].tolist(), weights[positions].tolist(), self.pad_token_id)
            for positions in shares[device::devices]
        ]


def _pack_bins(
    sequences: Sequences, rows: NDArray[numpy.int64], capacity: int, devices: int
) -> list[NDArray[numpy.int64]]:
    """Return the positions in `rows` of each bin. Rows without supervised tokens are skipped: they change no
    gradient."""
    supervised = numpy.flatnonzero(sequences.count_supervised(rows) > 0)
    bins = pack(sequences.measure_lengths(rows[supervised]).tolist(), capacity, devices) or [[] for _ in range(devices)]
    return [supervised[members] for members in bins]


def build_padded(sequences: Sequences, rows: list[int], weights: list[float], pad_token_id: int) -> MicroBatch:
    """Lay out one sequence a row, padded to the longest; without rows a single token with weight zero.

    weights: of each supervised token of a row, in the order of `rows`.
    """
    lengths = [len(sequences[row]) for row in rows]
    size, longest = max(len(rows), 1), max([1, *lengths])
    input_ids = numpy.full((size, longest), pad_token_id, numpy.int64)
    token_weights = numpy.zeros((size, longest), numpy.float32)
    for position, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        input_ids[position, : lengths[position]] = sequences[row]
        token_weights[position, _find_supervised(sequences, row)] = weight
    return _build(input_ids, token_weights, rows, longest)


def build_packed(sequences: Sequences, rows: list[int], weights: list[float], pad_token_id: int) -> MicroBatch:
    """Concatenate all rows in one sequence; positions restart at each row. weights: as in `build_padded`."""
    documents = [sequences[row] for row in rows] or [numpy.array([pad_token_id], numpy.int32)]
    lengths = [len(document) for document in documents]
    ends = numpy.cumsum([0, *lengths])
    token_weights = numpy.zeros((1, ends[-1]), numpy.float32)
    for start, row, weight in zip(ends, rows, weights, strict=False):  # ends has one entry more than rows
        token_weights[0, start : start + len(sequences[row])][_find_supervised(sequences, row)] = weight
    batch = _build(numpy.concatenate(documents)[None].astype(numpy.int64), token_weights, rows, max(lengths))
    positions = numpy.concatenate([numpy.arange(length) for length in lengths])[None]
    return replace(
        batch,
        position_ids=torch.from_numpy(positions),
        documents=torch.from_numpy(ends.astype(numpy.int32)),
    )


def _find_supervised(sequences: Sequences, row: int) -> slice:
    length = len(sequences[row])
    return slice(length - int(sequences.count_supervised(numpy.array([row]))[0]), length)


def _build(
    input_ids: NDArray[numpy.int64], weights: NDArray[numpy.float32], rows: list[int], longest: int
) -> MicroBatch:
    """Build a micro-batch of separate documents from the weight of each token as a target."""
    predicting = numpy.flatnonzero(weights[:, 1:].any(axis=0))
    if not len(predicting):
        predicting = numpy.array([0])  # without a loss the other devices would wait for this one's gradients
    following = numpy.minimum(predicting + 1, input_ids.shape[1] - 1)
    return MicroBatch(
        torch.from_numpy(input_ids),
        None,
        None,
        longest,
        torch.from_numpy(predicting),
        torch.from_numpy(input_ids[:, following]),
        torch.from_numpy(weights[:, following]),
        tuple(rows),
    )
