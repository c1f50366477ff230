"""Snippets from the source code in any folder or git repository, each with where it comes from."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.seeds.code_files import CodeFile, code_files
from magicoder.seeds.corpora import SUFFIXES
from magicoder.seeds.file_filters import decoded, not_written_by_people, read_code
from magicoder.seeds.functions import FunctionFinder
from magicoder.seeds.git import Repository, repository_of
from magicoder.seeds.licenses import License, Licenses, is_allowed, spdx
from magicoder.seeds.near_duplicates import NearDuplicates
from magicoder.seeds.snippets import LeftOut, Snippet, Undrawable, drawn_lines, generators


@dataclass(frozen=True)
class Document:
    """A file of the corpus that is read."""

    file: CodeFile
    text: str
    license: str | None
    dirty: bool | None


@dataclass(frozen=True)
class Drawing:
    """How a piece is drawn from a document: some consecutive lines, or a whole function."""

    unit: str
    language: str
    min_lines: int
    max_lines: int
    finder: FunctionFinder

    def place(self, document: Document, generator: random.Random) -> slice | str:
        """Where in its text the drawn piece stands, or why there is none."""
        if not document.text:
            return "empty document"
        if self.unit == "lines":
            return drawn_lines(document.text, generator, self.min_lines, self.max_lines) or "empty document"
        grammar = "tsx" if document.file.path.suffix == ".tsx" else self.language
        functions = self.finder.find(document.text, grammar, self.min_lines, self.max_lines)
        if functions is None:
            return "cannot be parsed"
        return (
            generator.choice(functions) if functions else f"no function of {self.min_lines} to {self.max_lines} lines"
        )


def local_items(
    folder: Path,
    language: str,
    *,
    unit: str,
    at_most: int | None,
    near_duplicates: bool,
    licences: list[str] | None,
    chunk_size: int,
    seed: int,
    min_lines: int,
    max_lines: int,
) -> Iterator[Snippet | Undrawable | LeftOut]:
    """One snippet of each document below the folder, in the order of their paths, and every file left out with why.

    unit: `lines` or `functions`. at_most: documents, counted after what is left out. licences: SPDX identifiers; None
    allows whatever there is.
    Errors: UserError if there is no such folder, no file of the language in it, or no such licence.
    """
    if not folder.is_dir():
        raise UserError(f"data.generate.path={folder}: no such folder")
    if language not in SUFFIXES:
        raise UserError(f"data.generate.data_dir={language}: choose one of {', '.join(SUFFIXES)}")
    root = Path(os.path.realpath(folder))
    repository = repository_of(root)
    corpus = Corpus(root, repository, near_duplicates, None if licences is None else canonical(licences))
    numbered = enumerate(generators(chunk_size, seed))
    with closing(FunctionFinder()) as finder:
        drawing = Drawing(unit, language, min_lines, max_lines, finder)
        for item in corpus.documents(SUFFIXES[language]):
            if isinstance(item, LeftOut):
                yield item
                continue
            raw_index, generator = next(numbered)
            yield drawn(item, raw_index, drawing.place(item, generator), repository)
            if raw_index + 1 == at_most:
                return
    if not corpus.has_files:
        raise UserError(f"data.generate.path={folder}: has no {language} files ({', '.join(SUFFIXES[language])})")


def drawn(
    document: Document, raw_index: int, place: slice | str, repository: Repository | None
) -> Snippet | Undrawable:
    """The piece of the document at `place` with where it comes from; `place` may be the reason why there is none."""
    if isinstance(place, str):
        return Undrawable(raw_index, place, {"path": document.file.name})
    return Snippet(raw_index, document.text[place], provenance(document, place, repository))


def canonical(licences: list[str]) -> list[str]:
    """The identifiers in SPDX's spelling. Errors: UserError for those that SPDX does not have."""
    spelled = {license: spdx(license) for license in licences}
    if unknown := [license for license, known in spelled.items() if known is None]:
        raise UserError(
            [
                f"data.generate.licences: {license} is no SPDX identifier (https://spdx.org/licenses)"
                for license in unknown
            ]
        )
    return [known for known in spelled.values() if known is not None]


class Corpus:
    """The files of a folder, each judged by its path, its content, its licence and the files before it."""

    def __init__(
        self, root: Path, repository: Repository | None, near_duplicates: bool, allowed: list[str] | None
    ) -> None:
        self.has_files = False
        self._root = root
        self._repository = repository
        self._allowed = allowed
        self._licences = Licenses(root if repository is None else repository.root)
        self._repeats = NearDuplicates(near_duplicates)

    def documents(self, suffixes: tuple[str, ...]) -> Iterator[Document | LeftOut]:
        """What remains, and what is left out with why."""
        for file in code_files(self._root, suffixes, self._repository):
            if isinstance(file, LeftOut):
                yield file
                continue
            self.has_files = True
            content = read_code(file)
            yield content if isinstance(content, LeftOut) else self._judged(file, content)

    def _judged(self, file: CodeFile, content: bytes) -> Document | LeftOut:
        text = decoded(content)
        if (verdict := not_written_by_people(file.name, text)) is not None:
            return verdict
        license = self._licences.of(file.path, text)
        if not self._accepts(license):
            evidence = {"licence": license.expression, "stated_in": license.stated_in}
            return LeftOut(file.name, "licence not allowed", evidence)
        if (repeated := self._repeats.verdict(file.name, file.path, content)) is not None:
            return LeftOut(file.name, *repeated)
        dirty = None if self._repository is None else self._repository.is_dirty(file.relative, content)
        return Document(file, text, license.expression, dirty)

    def _accepts(self, license: License) -> bool:
        if self._allowed is None:
            return True
        return license.expression is not None and is_allowed(license.expression, self._allowed)


def provenance(document: Document, place: slice, repository: Repository | None) -> dict[str, Any]:
    """Where a piece of a document comes from. Lines are counted from 1 and end at "\\n", as git counts them."""
    first = document.text.count("\n", 0, place.start) + 1
    return {
        "path": document.file.name,
        "repository": None if repository is None else repository.url,
        "commit": None if repository is None else repository.commit,
        "dirty": document.dirty,
        "first_line": first,
        "last_line": first + document.text.count("\n", place.start, place.stop - 1),
        "licence": document.license,
    }
