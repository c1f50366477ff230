"""Read datasets of the Hugging Face hub: rows as a stream, or single files; or local folders of the same form."""

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError

PREFIX = "hf://"
ADDRESS = re.compile(r"hf://datasets/([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?(?:/(.*))?")


@dataclass(frozen=True)
class HubRows:
    """The rows of a dataset of the hub, or of a local folder OWNER/NAME of the same form, which takes precedence.

    dataset: OWNER/NAME. revision: a branch, tag or commit; None for the newest. file: one file of the dataset; None for
    its split `train`.
    """

    dataset: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        """Return the address."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{PREFIX}datasets/{self.dataset}{revision}" + ("" if self.file is None else f"/{self.file}")


def parse_address(address: str) -> HubRows:
    """Return what an address of the hub names. Errors: UserError if it has another form."""
    found = ADDRESS.fullmatch(address)
    if found is None or any(character in address for character in "*?["):
        raise UserError(
            f"{address}: must have the form hf://datasets/OWNER/NAME or hf://datasets/OWNER/NAME/FILE, without patterns"
        )
    return HubRows(found[1], found[2], found[3] or None)


def stream_rows(dataset: str, *, place: str, at_most: int | None = None, **loading: Any) -> Iterator[dict[str, Any]]:
    """Stream the rows of a dataset's split `train`: only what is used is fetched.

    dataset, loading: arguments of `datasets.load_dataset`. place: the user's name of the dataset, for the message.
    Errors: UserError if the dataset is unavailable.
    """
    from datasets import load_dataset

    with _explain_failures(place):
        yield from islice(load_dataset(dataset, split="train", streaming=True, **loading), at_most)


def fetch_file(source: HubRows) -> Path:
    """Return a file of the hub in the local cache of Hugging Face, fetched unless it is there.

    Errors: UserError if it is unavailable.
    """
    from huggingface_hub import hf_hub_download

    with _explain_failures(str(source)):
        found = hf_hub_download(source.dataset, source.file, repo_type="dataset", revision=source.revision)
        return Path(found)


@contextmanager
def _explain_failures(place: str) -> Iterator[None]:
    import httpx2
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import logging
    from pyarrow import ArrowException

    logging.set_verbosity_error()  # it logs every retry; the error has what matters
    try:
        yield
    except (DatasetsError, ArrowException, httpx2.HTTPError, OSError, ValueError) as error:
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
