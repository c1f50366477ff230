"""Draw snippets from the source code in a folder or git repository, each with its origin."""

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.seeds.code_files import CodeFile, Suffixes, list_code_files
from magicoder.seeds.corpora import SUFFIXES
from magicoder.seeds.decoding import decode_document
from magicoder.seeds.file_filters import read_code, reject_machine_written
from magicoder.seeds.functions import FunctionFinder, find_grammar
from magicoder.seeds.git import UNREADABLE, Repository, find_repository
from magicoder.seeds.licenses import License, Licenses, is_allowed, normalize_expression
from magicoder.seeds.near_duplicates import NearDuplicates
from magicoder.seeds.sampling import KEEP_SECRETS_HOME, Sampler, SpanFilter, count_lines
from magicoder.seeds.snippets import SkippedDocument, SkippedFile, Snippet, make_generators
from magicoder.storage.rejected import Rejection


@dataclass(frozen=True)
class Document:
    """A file of the corpus, with its text."""

    file: CodeFile
    text: str
    license: str | None
    dirty: bool | None

    @property
    def grammar(self) -> str:
        """The grammar of its functions: TypeScript with JSX has one of its own."""
        return "tsx" if self.file.path.suffix.lower() == ".tsx" else find_grammar(self.file.language) or ""


def draw_local_snippets(
    folder: Path,
    languages: str | Sequence[str],
    *,
    unit: str,
    at_most: int | None,
    near_duplicates: bool,
    licenses: list[str] | None,
    chunk_size: int,
    seed: int,
    min_lines: int,
    max_lines: int,
    per_document: int = 1,
    suffixes: Sequence[str] | None = None,
    untracked: bool = False,
    span_filter: SpanFilter = KEEP_SECRETS_HOME,
) -> Iterator[Snippet | SkippedDocument | SkippedFile]:
    """Yield the snippets of each document below the folder, in the order of their paths, and every skipped file.

    unit: `lines` or `functions`. at_most: number of documents, not counting skipped files. licenses: SPDX identifiers;
    None allows any license, and none. suffixes: of the one language, instead of those of SUFFIXES.
    languages: a key of SUFFIXES or several; with several, each snippet has its own. Errors: UserError if the folder
    does not exist, is in a repository that git cannot read, or has no file of these languages.
    """
    wanted = find_suffixes(languages, suffixes)
    root = Path(os.path.realpath(folder))
    corpus = Corpus(
        root,
        open_repository(folder, root, untracked),
        near_duplicates,
        None if licenses is None else normalize_licenses(licenses),
    )
    numbered = enumerate(make_generators(chunk_size, seed))
    with closing(FunctionFinder()) as finder:
        sampler = Sampler(min_lines, max_lines, per_document, finder if unit == "functions" else None, span_filter)
        for item in corpus.read_documents(wanted, untracked):
            if isinstance(item, SkippedFile):
                yield item
                continue
            raw_index, generator = next(numbered)
            for drawn in sampler.draw(item.text, generator, item.grammar):
                yield cut_snippet(item, raw_index, drawn, names_language=len(wanted) > 1)
            if raw_index + 1 == at_most:
                return
    if not corpus.has_files:
        endings = ", ".join(ending for language in wanted.values() for ending in language)
        raise UserError(f"data.generate.path={folder}: has no {' or '.join(wanted)} files ({endings})")


def find_suffixes(languages: str | Sequence[str], suffixes: Sequence[str] | None) -> Suffixes:
    """Return the suffixes of each language: those given, else the documented ones."""
    names = [languages] if isinstance(languages, str) else languages
    return {name: SUFFIXES[name] if suffixes is None else tuple(suffixes) for name in names}


def open_repository(folder: Path, root: Path, untracked: bool) -> Repository | None:
    """Return the repository of the folder, if it is in one. folder: as the user named it. root: its real path.

    Errors: UserError if the folder is missing, or git cannot say what is tracked: untracked files may hold secrets.
    """
    if not folder.is_dir():
        raise UserError(f"data.generate.path={folder}: no such folder")
    found = find_repository(root)
    if not isinstance(found, Rejection):
        return found
    if untracked:
        return None
    otherwise = "or data.generate.untracked=true takes every file below the folder"
    if found.reason != UNREADABLE:
        raise UserError(
            f"data.generate.path={folder}: is in a repository, but {found.reason}; git add files, {otherwise}"
        )
    raise UserError(
        f"data.generate.path={folder}: is in a repository that git cannot read: {found.evidence}; "
        f"{advise(str(found.evidence), root)}, {otherwise}"
    )


def advise(words: str, root: Path) -> str:
    """Return what helps git to read a repository. words: those of git."""
    if "not installed" in words:
        return "install git"
    if "dubious ownership" in words:
        owned = re.search(r"repository at '(.*)'", words)
        return f"git config --global --add safe.directory {shlex.quote(owned[1] if owned else str(root))}"
    return "mend the repository"


def cut_snippet(
    document: Document, raw_index: int, drawn: slice | Rejection, names_language: bool
) -> Snippet | SkippedDocument:
    """Return the text at a span with its origin, or the document as skipped."""
    if isinstance(drawn, Rejection):
        evidence = {"path": document.file.name, **(drawn.evidence or {})}
        return SkippedDocument(raw_index, dataclasses.replace(drawn, evidence=evidence))
    origin = describe_origin(document, drawn)
    return Snippet(
        raw_index, document.text[drawn], {"lang": document.file.language, **origin} if names_language else origin
    )


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
        self._licenses: dict[Path, Licenses] = {}
        self._duplicates = NearDuplicates(near_duplicates)

    def read_documents(self, suffixes: Suffixes, untracked: bool) -> Iterator[Document | SkippedFile]:
        """Yield the documents of the corpus and the skipped files."""
        for file in list_code_files(self._root, suffixes, self._repository, untracked):
            if isinstance(file, SkippedFile):
                yield file
                continue
            self.has_files = True
            content = read_code(file)
            outcome = content if isinstance(content, Rejection) else self._judge(file, content)
            yield SkippedFile(file.name, outcome) if isinstance(outcome, Rejection) else outcome

    def _judge(self, file: CodeFile, content: bytes) -> Document | Rejection:
        text = decode_document(file.path, content)
        if isinstance(text, Rejection):
            return text
        if (rejection := reject_machine_written(text)) is not None:
            return rejection
        license = self._find_license(file, text)
        if not self._accepts(license):
            evidence = {"licence": license.expression, "stated_in": license.stated_in}
            return Rejection("licence not allowed", evidence)
        if (rejection := self._duplicates.verdict(file.name, file.path, text)) is not None:
            return rejection
        return Document(file, text, license.expression, file.is_dirty(content))

    def _find_license(self, file: CodeFile, text: str) -> License:
        """Return the license of a file: that of a submodule is not that of the repository around it."""
        root = self._root if file.repository is None else file.repository.root
        if root not in self._licenses:
            self._licenses[root] = Licenses(root)
        return self._licenses[root].find(file.path, text)

    def _accepts(self, license: License) -> bool:
        if self._allowed is None:
            return True
        return license.expression is not None and is_allowed(license.expression, self._allowed)


def describe_origin(document: Document, span: slice) -> dict[str, Any]:
    """Return the origin of a span, with its lines: in a notebook those of the joined cells."""
    repository = document.file.repository
    return {
        "path": document.file.name,
        "repository": None if repository is None else repository.url,
        "commit": None if repository is None else repository.commit,
        "dirty": document.dirty,
        "first_line": count_lines(document.text, span.start),
        "last_line": count_lines(document.text, span.stop - 1),
        "licence": document.license,
    }
