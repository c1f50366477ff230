"""The one shape of "this row goes no further": a reason with its evidence."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item_contra = TypeVar("Item_contra", contravariant=True)


@dataclass(frozen=True)
class Rejection:
    """Why an item goes no further.

    reason: a short phrase that is the same for all items of a kind, so that reasons can be counted.
    evidence: JSON-compatible data that proves the reason, such as the benchmark text that a row contains; None if the
    reason speaks for itself.
    """

    reason: str
    evidence: Any = None

    def as_row(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return the line of `rejected.jsonl` for `item`: the reason first, the evidence last.

        An item that a former run rejected may be judged again: its own reason and evidence give way.
        """
        kept = {key: value for key, value in item.items() if key not in ("reason", "evidence")}
        return {"reason": self.reason, **kept, "evidence": self.evidence}


class Filter(Protocol[Item_contra]):
    """Whatever keeps or rejects one item after another. It may remember what it has kept."""

    def verdict(self, item: Item_contra, /) -> Rejection | None:
        """Return None to keep the item, else the rejection."""
