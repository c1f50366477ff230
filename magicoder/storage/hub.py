"""Rows of datasets read through `datasets`: of the Hugging Face hub, or of local files of the same form."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from magicoder.runtime.errors import UserError


def stream_rows(dataset: str, *, place: str, at_most: int | None = None, **loading: Any) -> Iterator[dict[str, Any]]:
    """The rows of a dataset's split `train`, streamed, so that no more is fetched than is used.

    dataset and loading: as `datasets.load_dataset` takes them. place: what the user calls the dataset, for the message.
    Errors: UserError if the dataset cannot be had.
    """
    import httpx2
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its account of every retry; what matters is in the error
    try:
        yield from islice(load_dataset(dataset, split="train", streaming=True, **loading), at_most)
    except (DatasetsError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{place}: cannot be read: {reason}") from error
