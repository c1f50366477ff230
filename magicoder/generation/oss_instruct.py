"""OSS-Instruct: each snippet of code becomes a request, each answer a problem with its solution."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from magicoder.config import GenerateConfig, SeedCodeConfig
from magicoder.generation import former_run
from magicoder.generation.outcomes import Row, former_outcome, outcome, reason_of
from magicoder.generation.parsing import PARSERS
from magicoder.generation.summary import RunSummary
from magicoder.seeds import corpora, local_code, snapshot
from magicoder.seeds.snippets import LeftOut, Snippet, Undrawable, draw
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.storage.files import json_line, written_whole
from magicoder.teacher.journal import Journal, Record
from magicoder.teacher.requests import MARGIN, PromptTooLong, Request, RequestMaker, prefix_messages
from magicoder.teacher.session import TeacherSession

SNIPPETS, JOURNAL, VERDICTS = "snippets.jsonl", "journal.jsonl", "verdicts.jsonl"


class OssInstruct:
    """One run: what is asked about which snippets, and what becomes of them."""

    def __init__(self, settings: GenerateConfig, directory: Path, count_tokens: Callable[[str], int]) -> None:
        """Draw the snippets, unless they were drawn before: what the teacher is paid for must not change later.

        Errors: UserError if the corpus cannot be had or the file that is continued does not fit.
        """
        self._settings, self._directory = settings, directory
        self._snippets = directory / SNIPPETS
        code, teacher = settings.data.generate, settings.teacher
        if not self._snippets.exists():
            first, count = code.seed_code_start_index, code.max_new_data
            snapshot.write_snippets(self._snippets, drawn_from(code), code.seed, first, count)
        self.indices = snapshot.indices(self._snippets)
        self._former = self._taken_over()
        self._maker = RequestMaker(teacher, prefix_messages(settings.prompt), code.seed, count_tokens)

    def planned(self) -> Iterator[tuple[int, Request | PromptTooLong]]:
        """Every request of the run by its index, or why there is none."""
        for index, snippet in snapshot.snippets(self._snippets):
            if index > self._former.last_index:
                yield index, self._request(index, snippet)

    def ask(self, session: TeacherSession) -> None:
        """Journal what becomes of every snippet that the journal does not know of. Errors: as `Teaching.ask`."""
        journal = self._journal = session.journal(JOURNAL, self.indices)
        former = sum(index <= self._former.last_index for index in (self.indices if self._former.rows else ()))
        self._reopen_cut(journal)
        parser, total = self._settings.data.generate.parser, len(self.indices) - former
        session.ask(
            "generate", self._open(journal), journal, len(journal), total, lambda record: reason_of(record, parser)
        )

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive the rows, the rejected rows and the verdicts of both parsers, once all is asked.

        Rows come in index order, so they depend neither on concurrency nor on how often the run was killed.
        """
        kept = asked = 0
        reasons: Counter[str] = Counter()
        with ExitStack() as stack:
            rows, rejected, verdicts = (
                stack.enter_context(written_whole(artifact.path(name))) for name in (ROWS, REJECTED, VERDICTS)
            )
            for index, snippet in snapshot.snippets(self._snippets):
                row, is_kept, judged = self._outcome(index, snippet)
                (rows if is_kept else rejected).write(json_line(row))
                kept += is_kept
                asked += judged is not None
                if not is_kept:
                    reasons[row["reason"]] += 1
                if judged is not None:
                    verdicts.write(json_line({"index": index, **judged}))
            without_snippet = 0
            for row in snapshot.left_out(self._snippets):
                rejected.write(json_line(row))
                without_snippet += 1
        number = len(self.indices)
        counts = {"in": number, "out": kept, "rejected": number - kept, "documents_left_out": without_snippet}
        funnel = [("snippets", number), ("asked about", asked), ("kept", kept)]
        return RunSummary(counts, funnel, reasons, {"original_fingerprint": fingerprint(self._settings)})

    def _outcome(self, index: int, snippet: Snippet) -> tuple[Row, bool, dict[str, str | None] | None]:
        """The row of a snippet, whether it is kept, and what both parsers say of the answer, if one was asked for."""
        former = former_outcome(index, snippet, self._former)
        if former is not None:
            return *former, None
        record = self._journal[index]
        return *outcome(index, snippet, record, self._settings.data.generate.parser), both_verdicts(record)

    def _open(self, journal: Journal) -> Iterator[Request]:
        """Those that a former run left without an answer come last: they may be what stopped it."""
        left = frozenset(journal.left)
        first = ((index, snippet) for index, snippet in snapshot.snippets(self._snippets) if index not in left)
        last = ((index, snippet) for index, snippet in snapshot.snippets(self._snippets) if index in left)
        for index, snippet in chain(first, last if left else ()):
            if index in journal or index <= self._former.last_index:
                continue
            request = self._request(index, snippet)
            if isinstance(request, PromptTooLong):
                journal.append({"index": index, "no_room": request.prompt_tokens})
            else:
                yield request

    def _request(self, index: int, snippet: Snippet) -> Request | PromptTooLong:
        return self._maker.request(index, self._settings.prompt.user.replace("{code}", snippet.text))

    def _reopen_cut(self, journal: Journal) -> None:
        """Ask again where an answer was cut off at fewer tokens than it may have now."""
        most = self._settings.teacher.max_new_tokens
        cut = {index for index, max_tokens in journal.cut.items() if max_tokens < most}
        for index, snippet in snapshot.snippets(self._snippets) if cut else ():
            if index in cut:
                request = self._request(index, snippet)
                if isinstance(request, Request) and request.max_tokens > journal.cut[index]:
                    journal.reopen(index)

    def _taken_over(self) -> former_run.FormerRun:
        """The rows of the file that is continued, if any."""
        path = self._settings.data.generate.continue_from
        if path is None:
            return former_run.NO_FORMER_RUN
        theirs, ours = former_run.fingerprint_in(Path(path).name), fingerprint(self._settings)
        if theirs is not None and theirs != ours:
            print(
                f"warning: {path} was made with other prompts or settings (fingerprint {theirs}, here {ours}); "
                "its rows are taken over as they are, the rest is asked with the ones given here",
                file=sys.stderr,
            )
        return former_run.read_former_run(Path(path), snapshot.snippets(self._snippets))


def both_verdicts(record: Record) -> dict[str, str | None]:
    """Why each parser rejects an answer; None where it takes it."""
    return {name: reason_of(record, name) for name in PARSERS}


def drawn_from(code: SeedCodeConfig) -> Iterator[Snippet | Undrawable | LeftOut]:
    """One snippet of each considered document of the corpus that the config names."""
    if code.source == "local":
        folder = Path(code.path) if code.path is not None else corpora.standard_library()
        yield from local_code.local_items(
            folder,
            code.data_dir or "",
            unit=code.unit,
            at_most=code.max_considered_data,
            near_duplicates=code.near_duplicates,
            licences=code.licences,
            chunk_size=code.chunk_size,
            seed=code.seed,
            min_lines=code.min_lines,
            max_lines=code.max_lines,
        )
        return
    documents = corpora.hub_documents(code.dataset_name or "", code.data_dir, code.max_considered_data)
    yield from draw(
        documents, chunk_size=code.chunk_size, seed=code.seed, min_lines=code.min_lines, max_lines=code.max_lines
    )


def fingerprint(settings: GenerateConfig) -> str:
    """The fingerprint that the original would give these settings."""
    code, teacher, prompt = settings.data.generate, settings.teacher, settings.prompt
    return former_run.fingerprint(
        (
            code.seed,
            teacher.temperature,
            teacher.model,
            teacher.model_max_tokens,
            code.min_lines,
            code.max_lines,
            code.chunk_size,
            code.dataset_name,
            code.data_dir,
            code.max_considered_data,
            prompt.user,
            prompt.system,
            MARGIN,
        )
    )
