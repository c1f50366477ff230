"""Draw snippets from the source code in a folder or git repository, each with its origin."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.seeds.code_files import CodeFile, list_code_files
from magicoder.seeds.corpora import SUFFIXES
from magicoder.seeds.file_filters import decode, read_code, reject_machine_written
from magicoder.seeds.functions import FunctionFinder
from magicoder.seeds.git import Repository, find_repository
from magicoder.seeds.licenses import License, Licenses, is_allowed, normalize_expression
from magicoder.seeds.near_duplicates import NearDuplicates
from magicoder.seeds.snippets import SkippedDocument, SkippedFile, Snippet, draw_lines, make_generators
from magicoder.storage.rejected import Rejection


@dataclass(frozen=True)
class Document:
    """A file of the corpus, with its text."""

    file: CodeFile
    text: str
    license: str | None
    dirty: bool | None


@dataclass(frozen=True)
class Sampler:
    """Draws a span from a document: some consecutive lines, or a whole function."""

    unit: str
    language: str
    min_lines: int
    max_lines: int
    finder: FunctionFinder

    def draw(self, document: Document, generator: random.Random) -> slice | Rejection:
        """Return a span of the document's text, in characters, or the rejection of the document."""
        evidence = {"path": document.file.name}
        if self.unit == "lines" or not document.text:
            span = draw_lines(document.text, generator, self.min_lines, self.max_lines)
            return Rejection("empty document", evidence) if span is None else span
        grammar = "tsx" if document.file.path.suffix == ".tsx" else self.language
        functions = self.finder.find(document.text, grammar, self.min_lines, self.max_lines)
        if functions is None:
            return Rejection("cannot be parsed", evidence)
        if not functions:
            return Rejection(f"no function of {self.min_lines} to {self.max_lines} lines", evidence)
        return generator.choice(functions)


def draw_local_snippets(
    folder: Path,
    language: str,
    *,
    unit: str,
    at_most: int | None,
    near_duplicates: bool,
    licenses: list[str] | None,
    chunk_size: int,
    seed: int,
    min_lines: int,
    max_lines: int,
) -> Iterator[Snippet | SkippedDocument | SkippedFile]:
    """Yield one snippet of each document below the folder, in the order of their paths, and every skipped file.

    unit: `lines` or `functions`. at_most: number of documents, not counting skipped files. licenses: SPDX identifiers;
    None allows any license, and none.
    language: a key of SUFFIXES. Errors: UserError if the folder does not exist or has no file of the language.
    """
    if not folder.is_dir():
        raise UserError(f"data.generate.path={folder}: no such folder")
    root = Path(os.path.realpath(folder))
    repository = find_repository(root)
    corpus = Corpus(root, repository, near_duplicates, None if licenses is None else normalize_licenses(licenses))
    numbered = enumerate(make_generators(chunk_size, seed))
    with closing(FunctionFinder()) as finder:
        sampler = Sampler(unit, language, min_lines, max_lines, finder)
        for item in corpus.read_documents(SUFFIXES[language]):
            if isinstance(item, SkippedFile):
                yield item
                continue
            raw_index, generator = next(numbered)
            yield cut_snippet(item, raw_index, sampler.draw(item, generator), repository)
            if raw_index + 1 == at_most:
                return
    if not corpus.has_files:
        raise UserError(f"data.generate.path={folder}: has no {language} files ({', '.join(SUFFIXES[language])})")


def cut_snippet(
    document: Document, raw_index: int, span: slice | Rejection, repository: Repository | None
) -> Snippet | SkippedDocument:
    """Return the text at `span` with its origin, or the document as skipped."""
    if isinstance(span, Rejection):
        return SkippedDocument(raw_index, span)
    return Snippet(raw_index, document.text[span], describe_origin(document, span, repository))


def normalize_licenses(licenses: list[str]) -> list[str]:
    """Return the identifiers in SPDX's spelling. Errors: UserError for those that SPDX does not have."""
    spelled = {license: normalize_expression(license) for license in licenses}
    if unknown := [license for license, known in spelled.items() if known is None]:
        raise UserError(
            [
                f"data.generate.licenses: {license} is not an SPDX identifier (https://spdx.org/licenses)"
                for license in unknown
            ]
        )
    return [known for known in spelled.values() if known is not None]


class Corpus:
    """The files of a folder, filtered by path, content, license and similarity to earlier files."""

    def __init__(
        self, root: Path, repository: Repository | None, near_duplicates: bool, allowed: list[str] | None
    ) -> None:
        self.has_files = False
        self._root = root
        self._repository = repository
        self._allowed = allowed
        self._licenses = Licenses(root if repository is None else repository.root)
        self._duplicates = NearDuplicates(near_duplicates)

    def read_documents(self, suffixes: tuple[str, ...]) -> Iterator[Document | SkippedFile]:
        """Yield the documents of the corpus and the skipped files."""
        for file in list_code_files(self._root, suffixes, self._repository):
            if isinstance(file, SkippedFile):
                yield file
                continue
            self.has_files = True
            content = read_code(file)
            outcome = content if isinstance(content, Rejection) else self._judge(file, content)
            yield SkippedFile(file.name, outcome) if isinstance(outcome, Rejection) else outcome

    def _judge(self, file: CodeFile, content: bytes) -> Document | Rejection:
        text = decode(content)
        if (rejection := reject_machine_written(text)) is not None:
            return rejection
        license = self._licenses.find(file.path, text)
        if not self._accepts(license):
            evidence = {"licence": license.expression, "stated_in": license.stated_in}
            return Rejection("licence not allowed", evidence)
        if (rejection := self._duplicates.verdict(file.name, file.path, content)) is not None:
            return rejection
        dirty = None if self._repository is None else self._repository.is_dirty(file.relative, content)
        return Document(file, text, license.expression, dirty)

    def _accepts(self, license: License) -> bool:
        if self._allowed is None:
            return True
        return license.expression is not None and is_allowed(license.expression, self._allowed)


def describe_origin(document: Document, span: slice, repository: Repository | None) -> dict[str, Any]:
    """Return the origin of a span. Lines are counted from 1 and end at "\\n", as git counts them."""
    first = document.text.count("\n", 0, span.start) + 1
    return {
        "path": document.file.name,
        "repository": None if repository is None else repository.url,
        "commit": None if repository is None else repository.commit,
        "dirty": document.dirty,
        "first_line": first,
        "last_line": first + document.text.count("\n", span.start, span.stop - 1),
        "licence": document.license,
    }
