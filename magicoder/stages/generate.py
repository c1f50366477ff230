"""Snippets of real code inspire a teacher to write problems with solutions (OSS-Instruct)."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder import models
from magicoder.artifact import REJECTED, ROWS, Artifact
from magicoder.config import Generate, SeedCode
from magicoder.data import corpora, original
from magicoder.data.outcomes import derive
from magicoder.data.snippets import Snippet, Undrawable, draw, shuffled
from magicoder.errors import Interrupted, UserError
from magicoder.files import digest, read_rows, write_rows
from magicoder.progress import meter
from magicoder.schema import url_problems
from magicoder.teacher.journal import Journal
from magicoder.teacher.key import api_key
from magicoder.teacher.requests import MARGIN, NoRoom, RequestMaker
from magicoder.teacher.tokens import token_counter

SNIPPETS = "snippets.jsonl"
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Drawn:
    """The snippets of this run by their index, and the documents that gave none."""

    snippets: dict[int, Snippet]
    blanks: list[Undrawable]


@dataclass(frozen=True)
class Work:
    """What one run has at hand."""

    settings: Generate
    artifact: Artifact
    drawn: Drawn
    former: original.FormerRun
    journal: Journal


def problems(settings: Generate) -> list[str]:
    """A key, a folder or a file that is not there."""
    found = []
    teacher, code = settings.teacher, settings.data.generate
    try:
        api_key(teacher)
    except UserError as error:
        found += error.problems
    if teacher.base_url is None and teacher.serve is None and (url := os.environ.get("OPENAI_BASE_URL")) is not None:
        found += [f"OPENAI_BASE_URL: {problem}" for problem in url_problems(url)]
    if code.source == "local" and code.path is not None and not Path(code.path).is_dir():
        found.append(f"data.generate.path={code.path}: no such folder")
    if code.continue_from is not None and not Path(code.continue_from).is_file():
        found.append(f"data.generate.continue_from={code.continue_from}: no such file")
    if teacher.serve is not None:
        try:
            if not Path(models.find(teacher.serve).location).is_dir():
                found.append(f"teacher.serve={teacher.serve}: is not on this machine; `hf download` can bring it")
        except UserError as error:
            found += [f"teacher.serve={problem}" for problem in error.problems]
    return found


def run(settings: Generate) -> None:
    """Ask the teacher about every snippet that the journal has no answer for, then derive the rows from the journal."""
    code = settings.data.generate
    inputs = {"continue_from": digest(Path(code.continue_from))} if code.continue_from else {}
    reads = [Path(path) for path in (code.continue_from, code.path) if path is not None]
    with Artifact(settings, inputs, reads, progress=JOURNAL) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        # Ahead of the corpus, which may take long to read: a tokenizer that cannot be had is told at once.
        count_tokens = token_counter(settings.teacher.tokenizer, settings.teacher.model)
        drawn = read_snippets(code, artifact.path(SNIPPETS))
        former = take_over(settings, drawn)
        with Journal(artifact.path(JOURNAL)) as journal:
            work = Work(settings, artifact, drawn, former, journal)
            too_long = ask(work, count_tokens)
            write_outcomes(work, too_long)


def write_outcomes(work: Work, too_long: dict[int, int]) -> None:
    """Derive the rows from the journal and finish the artifact. too_long: as `ask` returns it."""
    artifact, drawn = work.artifact, work.drawn
    records = {record["index"]: record for record in work.journal.records()}
    kept, dropped = derive(drawn.snippets, work.former, records, too_long)
    write_rows(artifact.path(ROWS), kept)
    write_rows(artifact.path(REJECTED), [*dropped, *(blank.as_row() for blank in drawn.blanks)])
    artifact.finish(
        [ROWS, REJECTED, SNIPPETS],
        {"in": len(drawn.snippets), "out": len(kept), "rejected": len(dropped), "empty_documents": len(drawn.blanks)},
        usage=usage(work.journal),
        original_fingerprint=fingerprint(work.settings),
    )


def read_snippets(code: SeedCode, path: Path) -> Drawn:
    """The snippets of this run, drawn once and kept in `path`: what the teacher is paid for must not change later."""
    if not path.exists():
        everything = list(draw_from(code))
        in_order = shuffled([item for item in everything if isinstance(item, Snippet)], code.seed)
        first, last = code.seed_code_start_index, code.seed_code_start_index + code.max_new_data
        if first >= len(in_order):
            raise UserError(
                f"data.generate.seed_code_start_index={first}: the corpus gives only {len(in_order)} snippets"
            )
        blanks = [item.as_row() for item in everything if isinstance(item, Undrawable)]
        chosen = enumerate(in_order[first:last], start=first)
        rows = [{"raw_index": snippet.raw_index, "index": index, "seed": snippet.text} for index, snippet in chosen]
        write_rows(path, [*rows, *blanks])
    kept = list(read_rows(path))
    return Drawn(
        {row["index"]: Snippet(row["raw_index"], row["seed"]) for row in kept if "index" in row},
        [Undrawable(row["raw_index"], row["reason"]) for row in kept if "reason" in row],
    )


def draw_from(code: SeedCode) -> Iterator[Snippet | Undrawable]:
    """One snippet of each considered document of the corpus that the config names."""
    if code.source == "local":
        folder = Path(code.path) if code.path is not None else corpora.standard_library()
        documents = corpora.local_documents(folder, code.data_dir or "", code.max_considered_data)
    else:
        documents = corpora.hub_documents(code.dataset_name or "", code.data_dir, code.max_considered_data)
    return draw(
        documents, chunk_size=code.chunk_size, seed=code.seed, min_lines=code.min_lines, max_lines=code.max_lines
    )


def take_over(settings: Generate, drawn: Drawn) -> original.FormerRun:
    """The rows of the file that is continued, if any."""
    path = settings.data.generate.continue_from
    if path is None:
        return original.FormerRun({}, last_index=-1, file="")
    theirs, ours = original.fingerprint_in(Path(path).name), fingerprint(settings)
    if theirs is not None and theirs != ours:
        print(
            f"warning: {path} was made with other prompts or settings (fingerprint {theirs}, here {ours}); "
            "its rows are taken over as they are, the rest is asked with the ones given here",
            file=sys.stderr,
        )
    return original.read_former_run(Path(path), drawn.snippets)


def fingerprint(settings: Generate) -> str:
    """The fingerprint that the original would give these settings."""
    code, teacher, prompt = settings.data.generate, settings.teacher, settings.prompt
    return original.fingerprint(
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


def ask(work: Work, count_tokens: Callable[[str], int]) -> dict[int, int]:
    """Journal an answer for every snippet that has none yet; return the tokens of those too long to be asked.

    Errors: Interrupted after a signal, UserError if the teacher cannot be had; the journal keeps what was answered.
    """
    from magicoder.teacher.client import Client, Unanswered
    from magicoder.teacher.engine import answer_all

    settings, snippets = work.settings, work.drawn.snippets
    answered = {record["index"] for record in work.journal.records()}
    open_indices = [index for index in snippets if index > work.former.last_index and index not in answered]
    too_long: dict[int, int] = {}
    if not open_indices:
        return too_long
    maker = RequestMaker(settings.teacher, settings.prompt, settings.data.generate.seed, count_tokens)
    requests = requests_for(open_indices, snippets, maker, too_long)
    done = len(snippets) - len(open_indices)
    with served(settings, work.artifact) as base_url, meter("generate", len(snippets), done) as progress:
        client = Client(settings.teacher, base_url)
        concurrency = settings.teacher.concurrency
        try:
            stop = asyncio.run(answer_all(client, requests, work.journal, concurrency, progress.advance))
        except Unanswered as error:
            raise UserError(f"{error}; answers so far are kept, the same command goes on from there") from error
    if stop.signal_number is not None:
        raise Interrupted(stop.signal_number, "every answer that came is kept")
    return too_long


def requests_for(
    indices: list[int], snippets: dict[int, Snippet], maker: RequestMaker, too_long: dict[int, int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The request of each snippet; the tokens of a prompt without room for an answer are noted in `too_long`."""
    for index in indices:
        try:
            body = maker.body(index, snippets[index].text)
        except NoRoom as no_room:
            too_long[index] = no_room.prompt_tokens
        else:
            yield index, body


@contextmanager
def served(settings: Generate, artifact: Artifact) -> Iterator[str | None]:
    """The URL of the teacher that this run serves itself; None where it asks one that runs already."""
    if settings.teacher.serve is None:
        yield None
        return
    from magicoder.teacher.local_server import serving

    folder = models.as_folder(settings.teacher.serve, Path(settings.root) / "models")
    with serving(folder, settings.teacher.model, artifact.path("server.log")) as base_url:
        yield base_url


def usage(journal: Journal) -> dict[str, int]:
    """Tokens and requests that all answers together took, as the server counted them."""
    totals = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
    for record in journal.records():
        reported = record.get("answer", {}).get("usage")
        totals["requests"] += record.get("attempts", 0)
        for key in ("prompt_tokens", "completion_tokens"):
            count = reported.get(key) if isinstance(reported, dict) else None
            totals[key] += count if isinstance(count, int) else 0  # a server may report what it likes
    return totals
