"""The state of batches in progress, on disk, and the requests that wait for one."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from magicoder.storage.files import read_json, sync_directory, write_whole
from magicoder.teacher.records import Usage
from magicoder.teacher.requests import Request

MEGABYTE = 1_000_000


def list_batch_states(directory: Path) -> list[Path]:
    """List the state files of batches in progress: another mode must not ask for their rows as well."""
    return sorted(directory.glob("batch-*.json"))


@dataclass
class BatchState:
    """One batch as its file `path` describes it. rows: maximum usage of each request by index."""

    path: Path
    journal: str
    tag: str
    rows: dict[int, Usage]
    file_id: str | None = None
    batch_id: str | None = None

    @property
    def input(self) -> Path:
        """The file with the batch's requests."""
        return self.path.with_suffix(".jsonl")

    @classmethod
    def read(cls, path: Path) -> "BatchState":
        """Read the state of a batch from its file."""
        state = read_json(path)
        rows = {index: Usage(prompt_tokens, max_tokens) for index, prompt_tokens, max_tokens in state.pop("rows")}
        return cls(path=path, rows=rows, **state)

    def save(self) -> None:
        """Write the state; when this returns it survives a crash."""
        state = {"journal": self.journal, "tag": self.tag, "file_id": self.file_id, "batch_id": self.batch_id}
        rows = [[index, usage.prompt, usage.completion] for index, usage in self.rows.items()]
        with write_whole(self.path) as file:
            file.write(json.dumps({**state, "rows": rows}).encode() + b"\n")

    def remove(self) -> None:
        """Delete the file: the batch's results are in the journal. When this returns, the file does not come back."""
        self.path.unlink()
        sync_directory(self.path.parent)

    def read_requests(self, rows: set[int]) -> Iterator[Request]:
        """Yield the requests of these rows from the input file, and delete the file after the last."""
        with open(self.input, "rb") as file:
            for (index, usage), line in zip(self.rows.items(), file, strict=True):
                if index in rows:
                    yield Request(index, json.loads(line)["body"], usage.prompt, usage.completion)
        self.input.unlink()

    def make_stub(self, index: int) -> Request:
        """Return a request without its messages: index and maximum usage are enough to record an answer."""
        usage = self.rows[index]
        return Request(index, {}, usage.prompt, usage.completion)


class PendingRequests:
    """A stream of requests to submit, read one at a time; requests that were put back come first."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._sources = [iter(requests)]
        self._next: Request | None = None

    def skip(self, is_done: Callable[[int], bool]) -> None:
        """Skip the rows for which `is_done` is true."""
        self._sources = [(each for each in source if not is_done(each.index)) for source in self._sources]

    def put_back(self, requests: Iterable[Request]) -> None:
        """Return requests that must be submitted again."""
        self._sources.append(iter(requests))

    def peek(self) -> Request | None:
        """Return the next request without consuming it; None after the last."""
        while self._next is None and self._sources:
            self._next = next(self._sources[-1], None)
            if self._next is None:
                self._sources.pop()
        return self._next

    def take(self) -> None:
        """Consume the next request."""
        self._next = None
