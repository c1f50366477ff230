"""Leak detectors: find benchmark texts in training rows.

`DETECTORS` is the registry. Adding a detector is one module with its class, one line here, one option in
`conf/data/decontaminate`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from magicoder.curation.benchmarks import Strings
from magicoder.curation.normalized import NormalizedDetector
from magicoder.curation.substrings import SubstringDetector
from magicoder.storage.rejected import Filter

Row = dict[str, Any]

DETECTORS: dict[str, Callable[[Strings, Sequence[str]], Filter[Row]]] = {
    "substrings": SubstringDetector,
    "normalized": NormalizedDetector,
}
"""The values of `data.decontaminate.detectors`. Each is built from the benchmark strings and the columns to search."""
