"""How an update's sequences lie in tensors, and which of them each device takes.

Every device gets equally many micro-batches, for with sharded parameters each pass is a joint work of all.
"""

from dataclasses import dataclass, replace

import numpy
import torch
from numpy.typing import NDArray

from magicoder.training.packing import pack
from magicoder.training.plan import Plan, token_weights
from magicoder.training.tokenization import Sequences

TOKENS_OF_A_BIN = {"cuda": 4096, "cpu": 1024}
"""Where none are asked for: enough to keep a GPU busy; on a CPU few, for more than its caches hold are slower."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass takes.

    input_ids: int64 [sequences, tokens]. position_ids: int64 [1, tokens] where documents share a sequence, else None:
    padding is on the right, where causal attention keeps it from every token that counts, so it needs no mask.
    documents: int32 [documents + 1], where each document of a packed bin begins and the last ends; else None.
    longest: tokens of the longest document.
    predicting: int64 [predictions], the places whose next token is learnt in any sequence: others need no logits.
    targets: int64 [sequences, predictions], those next tokens. weights: float32 [sequences, predictions], what each
    counts in the update's loss, 0 where it is none of this sequence's.
    rows: the rows laid out here.
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
        """The same on `device`; the copy does not make the host wait."""
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


def tokens_of_a_bin(asked: int | None, longest: int, device: torch.device) -> int:
    """The most tokens in a bin: as `asked`, else what suits the device and holds the `longest` sequence."""
    return max(TOKENS_OF_A_BIN[device.type], longest) if asked is None else asked


@dataclass(frozen=True)
class Layout:
    """How updates are laid out: `kind` is `padded` or `packed`, the latter into bins of `tokens_per_device` tokens.

    loss: the kind of mean, see `token_weights`. pad_token_id: any token; it weighs nothing.
    """

    kind: str
    tokens_per_device: int
    loss: str
    pad_token_id: int

    def micro_batches(
        self, sequences: Sequences, plan: Plan, update: int, device: int = 0, devices: int = 1
    ) -> list[MicroBatch]:
        """What device number `device` of `devices` does for an update, counted from 0; as much as every other."""
        planned = plan.update(update)
        rows = numpy.concatenate(planned)
        weights = token_weights(self.loss, planned, sequences.supervised(rows))
        # Places in the update, not rows: where it opens an epoch and ends another, a row may be in it twice.
        if self.kind == "packed":
            shares = _bins(sequences, rows, self.tokens_per_device, devices)
        else:
            starts = numpy.cumsum([len(micro_batch) for micro_batch in planned])
            shares = numpy.split(numpy.arange(len(rows)), starts[:-1])
            shares += [numpy.empty(0, numpy.int64)] * (-len(shares) % devices)
        lay_out = packed if self.kind == "packed" else padded
        return [
            lay_out(sequences, rows[places].tolist(), weights[places].tolist(), self.pad_token_id)
            for places in shares[device::devices]
        ]


def _bins(sequences: Sequences, rows: NDArray[numpy.int64], capacity: int, devices: int) -> list[NDArray[numpy.int64]]:
    """Places in `rows` that each bin takes. Those with nothing to learn are left out: they would change no gradient."""
    supervised = numpy.flatnonzero(sequences.supervised(rows) > 0)
    bins = pack(sequences.lengths(rows[supervised]).tolist(), capacity, devices) or [[] for _ in range(devices)]
    return [supervised[members] for members in bins]


def padded(sequences: Sequences, rows: list[int], weights: list[float], pad_token_id: int) -> MicroBatch:
    """One sequence a row, each filled up to the longest; without rows a single token that weighs nothing.

    weights: what each supervised token of a row counts, in the order of `rows`.
    """
    lengths = [len(sequences[row]) for row in rows]
    size, longest = max(len(rows), 1), max([1, *lengths])
    input_ids = numpy.full((size, longest), pad_token_id, numpy.int64)
    token_weights = numpy.zeros((size, longest), numpy.float32)
    for place, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        input_ids[place, : lengths[place]] = sequences[row]
        token_weights[place, _supervised(sequences, row)] = weight
    return _micro_batch(input_ids, token_weights, rows, longest)


def packed(sequences: Sequences, rows: list[int], weights: list[float], pad_token_id: int) -> MicroBatch:
    """All rows one after another in one sequence, positions counted anew for each; `weights` as in `padded`."""
    documents = [sequences[row] for row in rows] or [numpy.array([pad_token_id], numpy.int32)]
    lengths = [len(document) for document in documents]
    ends = numpy.cumsum([0, *lengths])
    token_weights = numpy.zeros((1, ends[-1]), numpy.float32)
    for start, row, weight in zip(ends, rows, weights, strict=False):  # there is an end more than rows
        token_weights[0, start : start + len(sequences[row])][_supervised(sequences, row)] = weight
    batch = _micro_batch(numpy.concatenate(documents)[None].astype(numpy.int64), token_weights, rows, max(lengths))
    positions = numpy.concatenate([numpy.arange(length) for length in lengths])[None]
    return replace(
        batch,
        position_ids=torch.from_numpy(positions),
        documents=torch.from_numpy(ends.astype(numpy.int32)),
    )


def _supervised(sequences: Sequences, row: int) -> slice:
    length = len(sequences[row])
    return slice(length - int(sequences.supervised(numpy.array([row]))[0]), length)


def _micro_batch(
    input_ids: NDArray[numpy.int64], weights: NDArray[numpy.float32], rows: list[int], longest: int
) -> MicroBatch:
    """A micro-batch of documents apart, from what each of its tokens weighs as a target."""
    predicting = numpy.flatnonzero(weights[:, 1:].any(axis=0))
    if not len(predicting):
        predicting = numpy.array([0])  # a pass without a loss would leave the other devices waiting for its gradients
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
