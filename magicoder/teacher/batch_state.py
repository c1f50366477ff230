"""What is noted of batches that are under way, and what waits to be put into one."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from magicoder.storage.files import read_json, sync_directory, written_whole
from magicoder.teacher.requests import Request

MEGABYTE = 1_000_000


def under_way(directory: Path) -> list[Path]:
    """The notes of batches that are under way: rows that another mode must not ask for as well."""
    return sorted(directory.glob("batch-*.json"))


@dataclass
class BatchState:
    """A batch as it is noted in the file `path`; rows: tokens of prompt and answer, at most, by index."""

    path: Path
    journal: str
    tag: str
    rows: dict[int, tuple[int, int]]
    file_id: str | None = None
    batch_id: str | None = None

    @property
    def input(self) -> Path:
        """The file with its requests."""
        return self.path.with_suffix(".jsonl")

    @classmethod
    def read(cls, path: Path) -> "BatchState":
        """The batch that is noted in a file."""
        note = read_json(path)
        rows = {index: (prompt_tokens, max_tokens) for index, prompt_tokens, max_tokens in note.pop("rows")}
        return cls(path=path, rows=rows, **note)

    def save(self) -> None:
        """Write the note; when this returns it survives a crash."""
        note = {"journal": self.journal, "tag": self.tag, "file_id": self.file_id, "batch_id": self.batch_id}
        rows = [[index, *tokens] for index, tokens in self.rows.items()]
        with written_whole(self.path) as file:
            file.write(json.dumps({**note, "rows": rows}).encode() + b"\n")

    def forget(self) -> None:
        """Delete the note: all is known of this batch. When this returns, the note does not come back."""
        self.path.unlink()
        sync_directory(self.path.parent)

    def requests(self, rows: set[int]) -> Iterator[Request]:
        """The requests of these rows, from the file, which is deleted behind the last."""
        with open(self.input, "rb") as file:
            for (index, (prompt_tokens, _)), line in zip(self.rows.items(), file, strict=True):
                if index in rows:
                    yield Request(index, json.loads(line)["body"], prompt_tokens)
        self.input.unlink()

    def request(self, index: int) -> Request:
        """A request without its words: what it may cost."""
        prompt_tokens, max_tokens = self.rows[index]
        return Request(index, {"max_tokens": max_tokens}, prompt_tokens)


class Pending:
    """Requests that are yet to be submitted, one at a time, whatever their number; those that came back go first."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._sources = [iter(requests)]
        self._ahead: Request | None = None

    def leave_out(self, done: Callable[[int], bool]) -> None:
        """Pass over the rows of which `done` is true."""
        self._sources = [(each for each in source if not done(each.index)) for source in self._sources]

    def again(self, requests: Iterable[Request]) -> None:
        """Take back what was submitted."""
        self._sources.append(iter(requests))

    def peek(self) -> Request | None:
        """The request that comes next; None after the last."""
        while self._ahead is None and self._sources:
            self._ahead = next(self._sources[-1], None)
            if self._ahead is None:
                self._sources.pop()
        return self._ahead

    def take(self) -> None:
        """Go on behind the request that comes next."""
        self._ahead = None
