"""Stream rows of datasets: from the Hugging Face hub, or from local files of the same form."""

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
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


def find_file(repository: str, name: str) -> Path | None:
    """Return the local copy of a file of a model repository, fetched if necessary; None if the repository lacks it.

    Errors: UserError if the repository cannot be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repository, name, local_files_only=True))
    try:
        return Path(hf_hub_download(repository, name))
    except LocalEntryNotFoundError as error:  # before its base class: no connection, rather than no such file
        raise UserError(f"{repository}: cannot be read: {str(error).splitlines()[0]}") from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{repository}: cannot be read: {str(error).splitlines()[0]}") from error
