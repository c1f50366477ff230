"""OSS-Instruct: each snippet of code becomes a request, each answer a problem with its solution."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
from magicoder.generation.outcomes import Row, find_former_row, make_row, read_exercise
from magicoder.generation.parsing import PARSERS, Exercise
from magicoder.generation.summary import RunSummary
from magicoder.runtime.console import say
from magicoder.seeds import corpora, local_code, own_rows, snapshot
from magicoder.seeds.functions import find_grammar
from magicoder.seeds.sampling import SpanFilter
from magicoder.seeds.snippets import SkippedDocument, SkippedFile, Snippet, draw_snippets
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.storage.files import encode_row, write_whole
from magicoder.storage.rejected import Rejection
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import PromptTooLong, Record
from magicoder.teacher.requests import MARGIN, Request, RequestMaker, prefix_messages
from magicoder.teacher.session import TeacherSession

SNIPPETS, JOURNAL, VERDICTS = "snippets.jsonl", "journal.jsonl", "verdicts.jsonl"


class OssInstruct:
    """One run: the snippets, the requests about them, and the rows derived from the answers."""

    def __init__(self, settings: GenerateConfig, directory: Path, count_tokens: Callable[[str], int]) -> None:
        """Draw the snippets, unless a former run has: what the teacher is paid for must not change later.

        Errors: UserError if the corpus is unavailable or the continued file does not fit.
        """
        self._settings, self._directory = settings, directory
        self._snippets = directory / SNIPPETS
        code, teacher = get_snippets_config(settings), settings.teacher
        if not self._snippets.exists():
            first, count = code.seed_code_start_index, code.max_new_data
            snapshot.write_snippets(self._snippets, draw_from_corpus(code), code.seed, first, count)
        self.indices = snapshot.read_indices(self._snippets)
        self._former = self._read_former_run()
        self._maker = RequestMaker(teacher, prefix_messages(settings.prompt), code.seed, count_tokens)

    def plan(self) -> Iterator[Request | PromptTooLong]:
        """Yield every request of the run, or the record of a prompt that is too long."""
        for index, snippet in snapshot.read_snippets(self._snippets):
            if index > self._former.last_index:
                yield self._make_request(index, snippet)

    def ask(self, session: TeacherSession) -> None:
        """Journal the outcome of every snippet that the journal lacks. Errors: as `TeacherSession.ask`."""
        journal = self._journal = session.open_journal(JOURNAL, self.indices)
        former = sum(index <= self._former.last_index for index in (self.indices if self._former.rows else ()))
        self._reopen_cut(journal)
        total = len(self.indices) - former
        session.ask("generate", self._list_open(journal), journal, len(journal), total, self._verdict)

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive rows, rejected rows and the verdicts of both parsers, after everything is asked.

        Rows come in index order, so they depend neither on concurrency nor on the number of kills.
        """
        kept = asked = 0
        reasons: Counter[str] = Counter()
        with ExitStack() as stack:
            rows, rejected, verdicts = (
                stack.enter_context(write_whole(artifact.path(name))) for name in (ROWS, REJECTED, VERDICTS)
            )
            for index, snippet in snapshot.read_snippets(self._snippets):
                row, is_kept, judged = self._derive(index, snippet)
                (rows if is_kept else rejected).write(encode_row(row))
                kept += is_kept
                asked += judged is not None
                if not is_kept:
                    reasons[row["reason"]] += 1
                if judged is not None:
                    verdicts.write(encode_row({"index": index, **judged}))
            skipped = 0
            for row in snapshot.read_skipped(self._snippets):
                rejected.write(encode_row(row))
                skipped += 1
        number = len(self.indices)
        counts = {"in": number, "out": kept, "rejected": number - kept, "documents_left_out": skipped}
        funnel = [("snippets", number), ("asked about", asked), ("kept", kept)]
        return RunSummary(counts, funnel, reasons, {"original_fingerprint": compute_fingerprint(self._settings)})

    def _derive(self, index: int, snippet: Snippet) -> tuple[Row, bool, dict[str, str | None] | None]:
        """Return the row of a snippet, whether it is kept, and each parser's reason against the answer, if asked."""
        former = find_former_row(index, snippet, self._former)
        if former is not None:
            return *former, None
        record = self._journal[index]
        outcomes = {name: read_exercise(record, name) for name in PARSERS}
        outcome = outcomes[get_snippets_config(self._settings).parser]
        judged = {name: each.reason if isinstance(each, Rejection) else None for name, each in outcomes.items()}
        return make_row(index, snippet, record, outcome), isinstance(outcome, Exercise), judged

    def _verdict(self, record: Record) -> Rejection | None:
        outcome = read_exercise(record, get_snippets_config(self._settings).parser)
        return outcome if isinstance(outcome, Rejection) else None

    def _list_open(self, journal: Journal) -> Iterator[Request]:
        """Yield the requests to send. Rows that a former run left come last: they may be what stopped it."""
        left = frozenset(journal.left)
        first = ((index, snippet) for index, snippet in snapshot.read_snippets(self._snippets) if index not in left)
        last = ((index, snippet) for index, snippet in snapshot.read_snippets(self._snippets) if index in left)
        for index, snippet in chain(first, last if left else ()):
            if index in journal or index <= self._former.last_index:
                continue
            request = self._make_request(index, snippet)
            if isinstance(request, PromptTooLong):
                journal.append(request)
            else:
                yield request

    def _make_request(self, index: int, snippet: Snippet) -> Request | PromptTooLong:
        return self._maker.make(index, self._settings.prompt.user.replace("{code}", snippet.text))

    def _reopen_cut(self, journal: Journal) -> None:
        """Ask again where an answer was cut off at fewer tokens than it may have now."""
        limit = self._settings.teacher.max_new_tokens
        cut = {index for index, max_tokens in journal.cut.items() if max_tokens < limit}
        for index, snippet in snapshot.read_snippets(self._snippets) if cut else ():
            if index in cut:
                request = self._make_request(index, snippet)
                if isinstance(request, Request) and request.max_tokens > journal.cut[index]:
                    journal.reopen(index)

    def _read_former_run(self) -> former_run.FormerRun:
        """Read the file that is continued, if any."""
        path = get_snippets_config(self._settings).continue_from
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
