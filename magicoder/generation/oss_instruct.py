"""OSS-Instruct: each snippet of code becomes a request, each answer a problem with its solution."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from magicoder.config import (
    DrawnCodeConfig,
    GenerateConfig,
    HubCodeConfig,
    LocalCodeConfig,
    RowsConfig,
    SnippetsConfig,
)
from magicoder.generation import former_run
from magicoder.generation.outcomes import HOLDS_SECRET, Row, find_former_row, make_row, read_exercise
from magicoder.generation.parsing import PARSERS, Exercise
from magicoder.generation.summary import RunSummary
from magicoder.runtime.console import say
from magicoder.seeds import corpora, local_code, own_rows, snapshot
from magicoder.seeds.credentials import find_credential
from magicoder.seeds.functions import find_grammar
from magicoder.seeds.sampling import SpanFilter
from magicoder.seeds.snippets import SkippedDocument, SkippedFile, Snippet, draw_snippets
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.storage.files import encode_row, write_whole
from magicoder.storage.rejected import Rejection
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import PromptTooLong, Record, Refused
from magicoder.teacher.requests import MARGIN, Request, RequestMaker, prefix_messages
from magicoder.teacher.session import TeacherSession
from magicoder.teacher.tokens import TokenCounter

SNIPPETS, JOURNAL, VERDICTS = "snippets.jsonl", "journal.jsonl", "verdicts.jsonl"
SAMPLE_JOURNALS = "journal-sample-*.jsonl"
"""Journals of the second and further samples."""
SEEDS_OF_A_SAMPLE = 10_000_019
"""Difference between the seeds of two samples of a snippet: more than a run has snippets."""
BACKTICKS = re.compile(r"`{3,}")
FENCED = re.compile(r"^(?P<fence>`{3,})(?P<inside>[^\n`]*\n[ \t]*\{code\}[ \t]*\n)(?P=fence)(?=[ \t]*$)", re.MULTILINE)
"""The fenced block of a prompt that holds the snippet."""


@dataclass(frozen=True)
class Sample:
    """One answer to each snippet: number (from 1), journal, and the maker of its requests."""

    number: int
    journal: Journal
    maker: RequestMaker


class OssInstruct:
    """One run: the snippets, the requests about them, and the rows derived from the answers."""

    def __init__(self, settings: GenerateConfig, directory: Path, count_tokens: TokenCounter) -> None:
        """Draw the snippets, unless a former run has: what the teacher is paid for must not change later.

        Errors: UserError if the corpus is unavailable or the continued file does not fit.
        """
        self._settings, self._directory, self._count_tokens = settings, directory, count_tokens
        self._snippets = directory / SNIPPETS
        self._code = code = get_snippets_config(settings)
        # What an earlier version, or a run with secrets=keep, has drawn was not searched.
        self._must_search = self._snippets.exists() and code.secrets == "skip"
        if not self._snippets.exists():
            first, count = code.seed_code_start_index, code.max_new_data
            snapshot.write_snippets(self._snippets, draw_from_corpus(code), code.seed, first, count)
        self.indices = snapshot.read_indices(self._snippets)
        self._former = self._read_former_run()
        self._samples: list[Sample] = []

    def plan(self) -> Iterator[Request | PromptTooLong]:
        """Yield every request of the run, or the record of a prompt that is too long."""
        for number in range(1, self._code.samples + 1):
            maker = self._make_maker(number)
            for index, snippet in snapshot.read_snippets(self._snippets):
                if index > self._former.last_index:
                    yield maker.make(index, insert_snippet(self._settings.prompt.user, snippet.text))

    def open(self, session: TeacherSession) -> None:
        """Open the journals, also those of samples that this run does not want: the budget must count what former runs
        spent. Errors: UserError for a journal of another run."""
        former_samples = sum(1 for _ in self._directory.glob(SAMPLE_JOURNALS)) + 1
        opened = [
            Sample(number, session.open_journal(name_journal(number), self.indices), self._make_maker(number))
            for number in range(1, max(self._code.samples, former_samples) + 1)
        ]
        self._samples = opened[: self._code.samples]

    def ask(self, session: TeacherSession) -> None:
        """Journal the outcome of every snippet that the journals lack. Errors: as `TeacherSession.ask`."""
        total = len(self.indices) - self._count_former()
        for sample in self._samples:
            self._reopen_cured(sample)
            name = (
                "generate" if len(self._samples) == 1 else f"generate, sample {sample.number} of {len(self._samples)}"
            )
            session.ask(name, self._list_open(sample), sample.journal, len(sample.journal), total, self._verdict)

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive rows, rejected rows and the verdicts of both parsers from what the journals hold.

        Rows come in index order, so they depend neither on concurrency nor on the number of kills. A snippet that is
        not settled gives none.
        """
        kept = asked = number = 0
        reasons: Counter[str] = Counter()
        with ExitStack() as stack:
            rows, rejected, verdicts = (
                stack.enter_context(write_whole(artifact.path(name))) for name in (ROWS, REJECTED, VERDICTS)
            )
            for row, is_kept, judged in self._derive_all():
                number += 1
                (rows if is_kept else rejected).write(encode_row(row))
                kept += is_kept
                asked += judged is not None
                if not is_kept:
                    reasons[row["reason"]] += 1
                if judged is not None:
                    verdicts.write(encode_row({**get_keys(row), **judged}))
            skipped = 0
            for row in snapshot.read_skipped(self._snippets):
                rejected.write(encode_row(row))
                skipped += 1
        counts = {"in": number, "out": kept, "rejected": number - kept, "documents_left_out": skipped}
        unanswered = sum(len(self.indices) - self._count_former() - len(sample.journal) for sample in self._samples)
        funnel = [("snippets", len(self.indices)), ("asked about", asked), ("kept", kept)]
        return RunSummary(
            counts, funnel, reasons, {"original_fingerprint": compute_fingerprint(self._settings)}, unanswered
        )

    def _count_former(self) -> int:
        """Count the snippets that the continued run has asked about."""
        return max(0, min(self._former.last_index + 1, self.indices.stop) - self.indices.start)

    def _derive_all(self) -> Iterator[tuple[Row, bool, dict[str, str | None] | None]]:
        """Yield, for each settled snippet, what `_derive` returns; the samples of a snippet follow each other."""
        for index, snippet in snapshot.read_snippets(self._snippets):
            for sample in self._samples:
                is_former = index <= self._former.last_index and sample.number == 1
                if is_former or index in sample.journal:
                    yield self._derive(index, snippet, sample)

    def _derive(self, index: int, snippet: Snippet, sample: Sample) -> tuple[Row, bool, dict[str, str | None] | None]:
        """Return the row of a snippet, whether it is kept, and each parser's reason against the answer, if asked."""
        former = find_former_row(index, snippet, self._former)
        if former is not None:
            return *former, None
        record, tags = sample.journal[index], self._settings.teacher.thought_tags
        outcomes = {name: read_exercise(record, name, tags) for name in PARSERS}
        outcome = outcomes[self._code.parser]
        judged = {name: each.reason if isinstance(each, Rejection) else None for name, each in outcomes.items()}
        row = make_row(index, snippet, record, outcome, tags)
        if len(self._samples) > 1:
            row["sample"] = sample.number
        return row, isinstance(outcome, Exercise), judged

    def _verdict(self, record: Record) -> Rejection | None:
        outcome = read_exercise(record, self._code.parser, self._settings.teacher.thought_tags)
        return outcome if isinstance(outcome, Rejection) else None

    def _list_open(self, sample: Sample) -> Iterator[Request]:
        """Yield the requests to send. Rows that a former run left come last: they may be what stopped it."""
        journal, left = sample.journal, frozenset(sample.journal.left)
        first = ((index, snippet) for index, snippet in snapshot.read_snippets(self._snippets) if index not in left)
        last = ((index, snippet) for index, snippet in snapshot.read_snippets(self._snippets) if index in left)
        for index, snippet in chain(first, last if left else ()):
            if index in journal or index <= self._former.last_index:
                continue
            request = self._make_request(sample, index, snippet)
            if self._must_search and (secret := find_credential(snippet.text, slice(0, len(snippet.text)))) is not None:
                journal.append(Refused(index, f"not sent: {secret.kind}", HOLDS_SECRET))
            elif isinstance(request, PromptTooLong):
                journal.append(request)
            else:
                yield request

    def _make_maker(self, number: int) -> RequestMaker:
        """Return the maker of the requests of a sample."""
        seed = self._code.seed + (number - 1) * SEEDS_OF_A_SAMPLE
        return RequestMaker(self._settings.teacher, prefix_messages(self._settings.prompt), seed, self._count_tokens)

    def _make_request(self, sample: Sample, index: int, snippet: Snippet) -> Request | PromptTooLong:
        return sample.maker.make(index, insert_snippet(self._settings.prompt.user, snippet.text))

    def _reopen_cured(self, sample: Sample) -> None:
        """Ask again where the limits of tokens have changed so that it may help."""
        reopenable = sample.journal.list_reopenable()
        for index, snippet in snapshot.read_snippets(self._snippets) if reopenable else ():
            if index in reopenable and isinstance(request := self._make_request(sample, index, snippet), Request):
                sample.journal.reopen_if_cured(request)

    def _read_former_run(self) -> former_run.FormerRun:
        """Read the file that is continued, if any."""
        path = self._code.continue_from
        if path is None:
            return former_run.NO_FORMER_RUN
        theirs, ours = former_run.find_fingerprint(Path(path).name), compute_fingerprint(self._settings)
        if theirs is not None and theirs != ours:
            say(
                f"warning: {path} was made with other prompts or settings (fingerprint {theirs}, here {ours}); "
                "its rows are kept as they are, the remaining ones are asked with the settings given here",
                error=True,
            )
        return former_run.read_former_run(Path(path), snapshot.read_snippets(self._snippets))


def name_journal(sample: int) -> str:
    """Return the file name of a sample's journal."""
    return JOURNAL if sample == 1 else SAMPLE_JOURNALS.replace("*", str(sample))


def get_keys(row: Row) -> Row:
    """Return what identifies a row: its index, and its sample where there are several."""
    return {key: row[key] for key in ("index", "sample") if key in row}


def insert_snippet(template: str, snippet: str) -> str:
    """Insert a snippet into the prompt, literally. A fence around it becomes longer than any fence inside."""
    longest = max(map(len, BACKTICKS.findall(snippet)), default=0)
    if longest:
        template = FENCED.sub(lambda found: lengthen_fence(found, longest), template)
    return template.replace("{code}", snippet)


def lengthen_fence(found: re.Match[str], longest: int) -> str:
    """Return a fenced block of the template with a fence of more backticks than `longest`."""
    fence = "`" * max(len(found["fence"]), longest + 1)
    return f"{fence}{found['inside']}{fence}"


def get_snippets_config(settings: GenerateConfig) -> SnippetsConfig:
    """Return `data.generate` of a run whose source is code."""
    assert isinstance(settings.data.generate, SnippetsConfig), "the registry of recipes ensures it"
    return settings.data.generate


def draw_from_corpus(code: SnippetsConfig) -> Iterator[Snippet | SkippedDocument | SkippedFile]:
    """Yield the snippets of each considered document of the corpus that the config names, and what is left out."""
    span_filter = SpanFilter(skip_blank=code.skip_blank, skip_secrets=code.secrets == "skip")
    if isinstance(code, RowsConfig):
        yield from own_rows.read_snippets(Path(code.path), code.column, code.max_considered_data, span_filter)
        return
    if isinstance(code, LocalCodeConfig):
        # The standard library is public, and may lie in a repository that ignores it (pyenv's, Homebrew's).
        is_public = code.path is None
        yield from local_code.draw_local_snippets(
            corpora.find_standard_library() if code.path is None else Path(code.path),
            code.languages,
            suffixes=code.suffixes,
            untracked=code.untracked or is_public,
            span_filter=span_filter,
            per_document=code.snippets_per_document,
            unit=code.unit,
            at_most=code.max_considered_data,
            near_duplicates=code.near_duplicates,
            licenses=code.licenses,
            chunk_size=code.chunk_size,
            seed=code.seed,
            min_lines=code.min_lines,
            max_lines=code.max_lines,
        )
        return
    assert isinstance(code, HubCodeConfig), "the only other source of code"
    documents = corpora.stream_documents(code.dataset_name, code.data_dir, code.max_considered_data)
    yield from draw_snippets(
        documents,
        chunk_size=code.chunk_size,
        seed=code.seed,
        min_lines=code.min_lines,
        max_lines=code.max_lines,
        per_document=code.snippets_per_document,
        grammar=find_grammar(code.data_dir or code.tag) if code.unit == "functions" else None,
        span_filter=span_filter,
    )


def compute_fingerprint(settings: GenerateConfig) -> str:
    """Return the fingerprint that the original would give these settings."""
    code, teacher, prompt = get_snippets_config(settings), settings.teacher, settings.prompt
    origin = (code.dataset_name, code.data_dir) if isinstance(code, HubCodeConfig) else (None, None)
    cut = (code.min_lines, code.max_lines, code.chunk_size) if isinstance(code, DrawnCodeConfig) else (None,) * 3
    return former_run.compute_fingerprint(
        (
            code.seed,
            teacher.temperature,
            teacher.model,
            teacher.model_max_tokens,
            *cut,
            *origin,
            code.max_considered_data,
            prompt.user,
            prompt.system,
            MARGIN,
        )
    )
