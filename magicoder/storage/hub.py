"""Stream rows of datasets: from the Hugging Face hub, or from local files of the same form."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from magicoder.runtime.errors import UserError


def stream_rows(dataset: str, *, place: str, at_most: int | None = None, **loading: Any) -> Iterator[dict[str, Any]]:
    """Stream the rows of a dataset's split `train`: only what is used is fetched.

    dataset, loading: arguments of `datasets.load_dataset`. place: the user's name of the dataset, for the message.
    Errors: UserError if the dataset is unavailable.
    """
    import httpx2
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it logs every retry; the error has what matters
    try:
        yield from islice(load_dataset(dataset, split="train", streaming=True, **loading), at_most)
    except (DatasetsError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{place}: cannot be read: {reason}") from error
