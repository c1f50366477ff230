"""Evol-Instruct: in each round one pass makes instructions harder, and another one answers what came out well."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy

from magicoder.config import EvolutionConfig, GenerateConfig
from magicoder.curation.instructions import codealpaca
from magicoder.generation.evolution import Eliminated, Elimination, Known, answered, filled, operation_for, text_of
from magicoder.generation.summary import RunSummary
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import REJECTED, ROWS, Artifact, expand
from magicoder.storage.files import numbered_rows, read_json, read_rows, write_rows
from magicoder.storage.rejected import rejected
from magicoder.teacher.journal import Journal, Record
from magicoder.teacher.requests import PromptTooLong, Request, RequestMaker, prefix_messages
from magicoder.teacher.session import TeacherSession

INSTRUCTIONS = "instructions.jsonl"
EVOLVING, ANSWERING = "journal-evolve-", "journal-answer-"
"""Before the number of the round, the names of its journals."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """One request for each of some instructions, and how a record of the journal is judged."""

    name: str
    journal: Journal
    request: Callable[[int], Request | PromptTooLong]
    verdict: Callable[[Record], str | Eliminated]

    def ask(self, session: TeacherSession, indices: list[int], *, reopen: bool) -> None:
        """Journal what becomes of the instructions that the journal does not know of. Errors: as `Teaching.ask`.

        reopen: ask again where an answer was cut off at fewer tokens than it may have now.
        """
        for index in sorted(self.journal.cut.keys() & set(indices) if reopen else ()):
            request = self.request(index)
            if isinstance(request, Request) and request.max_tokens > self.journal.cut[index]:
                self.journal.reopen(index)
        remaining = [index for index in indices if index not in self.journal]
        remaining.sort(key=self.journal.left.__contains__)  # those last that may be what stopped a former run
        done, total = len(indices) - len(remaining), len(indices)
        session.ask(self.name, self._requests(remaining), self.journal, done, total, self._reason)

    def outcome(self, index: int) -> str | Eliminated:
        """What came of an instruction."""
        return self.verdict(self.journal[index])

    def _requests(self, indices: list[int]) -> Iterator[Request]:
        for index in indices:
            request = self.request(index)
            if isinstance(request, PromptTooLong):
                self.journal.append({"index": index, "no_room": request.prompt_tokens})
            else:
                yield request

    def _reason(self, record: Record) -> str | None:
        outcome = self.verdict(record)
        return outcome.reason if isinstance(outcome, Eliminated) else None


@dataclass(frozen=True)
class Round:
    """The journals of a round, and which instructions it eliminated."""

    number: int
    evolving: Journal
    answering: Journal
    eliminated: dict[int, Eliminated] = field(default_factory=dict)


class EvolInstruct:
    """One run: which instructions grow, what is asked about them, and what becomes of them."""

    def __init__(self, settings: GenerateConfig, directory: Path, count_tokens: Callable[[str], int]) -> None:
        """Choose the instructions, unless that was done before: what the teacher is paid for must not change later.

        Errors: UserError if a file holds what are no instructions, or fewer than are skipped.
        """
        self._code, self._prompt, self._evolution = settings.data.generate, settings.prompt, evolution_of(settings)
        self._path = directory / INSTRUCTIONS
        if not self._path.exists():
            write_rows(self._path, chosen(settings))
        self._starting: dict[int, str] = {
            row["index"]: row["instruction"] for row in read_rows(self._path) if "index" in row
        }
        around = [self._prompt.system, self._prompt.user, *self._prompt.operations.values()]
        self._elimination = Elimination(around, self._evolution.similarity)
        self._evolve = RequestMaker(settings.teacher, prefix_messages(self._prompt), self._code.seed, count_tokens)
        # Worked examples show how to evolve. Their system message is said to whoever answers, too.
        self._answer = RequestMaker(settings.teacher, prefix_messages(self._prompt)[:1], self._code.seed, count_tokens)
        self._rounds: list[Round] = []
        self._not_wanted: list[Round] = []

    def planned(self) -> Iterator[tuple[int, Request | PromptTooLong]]:
        """Every request of the first pass by its index, or why there is none. Later ones depend on its answers."""
        for index, instruction in self._starting.items():
            yield index, self._evolve.request(index, self._user(index, instruction, 1))

    def ask(self, session: TeacherSession) -> None:
        """Journal what becomes of every instruction in every round. Errors: as `Teaching.ask`.

        An instruction that is eliminated in a round goes into the next one as it last was when it turned out well.
        """
        first = self._code.seed_code_start_index
        indices = range(first, first + len(self._starting))
        # All of them ahead of the first request: what former sessions spent counts from the beginning, that of rounds
        # which are not wanted any more too.
        begun = [
            Round(
                number,
                session.journal(f"{EVOLVING}{number}.jsonl", indices),
                session.journal(f"{ANSWERING}{number}.jsonl", indices),
            )
            for number in range(1, max(self._evolution.rounds, self._rounds_of_former_runs()) + 1)
        ]
        self._rounds, self._not_wanted = begun[: self._evolution.rounds], begun[self._evolution.rounds :]
        instructions, known = dict(self._starting), Known(self._starting)
        for current in self._rounds:
            evolved = self._evolved(session, current, instructions, known)
            instructions |= self._answered(session, current, evolved)

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive the rows and the rejected rows, once all is asked, in the order of index and round.

        `in` counts what grows once a round, so each is a row or a rejected one.
        """
        blank = [row for row in read_rows(self._path) if "index" not in row]
        kept = write_rows(artifact.path(ROWS), self._kept())
        dropped = write_rows(artifact.path(REJECTED), chain(self._dropped(), blank)) - len(blank)
        counts = {"in": kept + dropped, "out": kept, "rejected": dropped}
        counts |= {"instructions": len(self._starting), "blank_instructions": len(blank)}
        funnel = [("instructions, once a round", kept + dropped), ("kept", kept)]
        return RunSummary(counts, funnel, Counter(row["reason"] for row in self._dropped()))

    def _evolved(
        self, session: TeacherSession, current: Round, instructions: Mapping[int, str], known: Known
    ) -> dict[int, str]:
        """The first pass of a round: the harder instructions that came out well. The others are noted in the round."""
        evolving = Pass(
            f"evolve, round {current.number} of {len(self._rounds)}",
            current.evolving,
            lambda index: self._evolve.request(index, self._user(index, instructions[index], current.number)),
            lambda record: self._elimination.evolved(record, instructions[record["index"]]),
        )
        evolving.ask(session, list(instructions), reopen=self._is_last_begun(current))
        evolved: dict[int, str] = {}
        for index in instructions:
            outcome = evolving.outcome(index)
            if isinstance(outcome, str):
                outcome = known.repeated(outcome, index, current.number) or outcome
            if isinstance(outcome, Eliminated):
                current.eliminated[index] = outcome
            else:
                evolved[index] = outcome
        return evolved

    def _answered(self, session: TeacherSession, current: Round, evolved: Mapping[int, str]) -> dict[int, str]:
        """The second pass: those harder instructions that were answered well. The others are noted in the round."""
        answering = Pass(
            f"answer, round {current.number} of {len(self._rounds)}",
            current.answering,
            lambda index: self._answer.request(index, evolved[index]),
            answered,
        )
        answering.ask(session, list(evolved), reopen=self._is_last_begun(current))
        for index in evolved:
            if isinstance(outcome := answering.outcome(index), Eliminated):
                current.eliminated[index] = outcome
        return {index: text for index, text in evolved.items() if index not in current.eliminated}

    def _is_last_begun(self, current: Round) -> bool:
        """Whether no later round was asked about what came of this one: another answer here would belie it."""
        later = [*self._rounds[current.number :], *self._not_wanted]
        return not any(len(each.evolving) for each in later)

    def _rounds_of_former_runs(self) -> int:
        return sum(1 for _ in self._path.parent.glob(f"{EVOLVING}*.jsonl"))

    def _user(self, index: int, instruction: str, number: int) -> str:
        return filled(self._prompt.user, self._prompt.operations[self._operation(index, number)], instruction)

    def _operation(self, index: int, number: int) -> str:
        return operation_for(self._prompt.operations, self._code.seed, index, number)

    def _kept(self) -> Iterator[Row]:
        for row, current in self._evolutions():
            if row["index"] not in current.eliminated:
                yield {**row, "output": answered(current.answering[row["index"]])}

    def _dropped(self) -> Iterator[Row]:
        for row, current in self._evolutions():
            if (eliminated := current.eliminated.get(row["index"])) is not None:
                yield rejected(eliminated.reason, row, eliminated.evidence)

    def _evolutions(self) -> Iterator[tuple[Row, Round]]:
        """Each instruction in each round: what it grew from and, if there is such a text, into what."""
        for index, starting in self._starting.items():
            instruction = starting
            for current in self._rounds:
                operation = self._operation(index, current.number)
                row = {"index": index, "round": current.number, "operation": operation, "seed": instruction}
                evolved = text_of(current.evolving[index])
                yield row if isinstance(evolved, Eliminated) else {**row, "instruction": evolved}, current
                if isinstance(evolved, str) and index not in current.eliminated:
                    instruction = evolved


def evolution_of(settings: GenerateConfig) -> EvolutionConfig:
    """What `source=instructions` goes with."""
    evolution = settings.data.generate.evolve
    assert evolution is not None, "SeedCode.check sees to it"
    return evolution


def chosen(settings: GenerateConfig) -> list[Row]:
    """The instructions of this run in the documented order, each with its place in the files; then the blank ones."""
    code, files = settings.data.generate, expand(evolution_of(settings).instruction_files, made_by="preprocess")
    considered = islice(chain.from_iterable(map(instructions_in, files)), code.max_considered_data)
    rows: list[Row] = [{"raw_index": place, "instruction": text} for place, text in enumerate(considered)]
    blank = [{"reason": "blank instruction", **row} for row in rows if not row["instruction"].strip()]
    rows = [row for row in rows if row["instruction"].strip()]
    first = code.seed_code_start_index
    if first >= len(rows):
        raise UserError(f"data.generate.seed_code_start_index={first}: the files hold only {len(rows)} instructions")
    order = numpy.random.default_rng(code.seed).permutation(len(rows))[first : first + code.max_new_data]
    return [*({"index": index, **rows[place]} for index, place in enumerate(order, start=first)), *blank]


def instructions_in(path: Path) -> Iterator[str]:
    """The instructions of JSON Lines or of a JSON list, each with its input, if it has one, as CodeAlpaca's are put.

    Errors: UserError naming the entry that has no instruction as text.
    """
    for place, row in entries(path):
        texts = {"instruction": row.get("instruction"), "input": row.get("input") or "", "output": ""}
        for column, text in texts.items():
            if not isinstance(text, str):
                raise UserError(f"{path}, {place}: column {column} is missing or not a text")
        yield codealpaca(texts, "")["instruction"]


def entries(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of a file, each with its place in words."""
    with path.open("rb") as file:
        is_list = file.read(4096).lstrip().startswith(b"[")
    if not is_list:
        yield from ((f"line {number}", row) for number, row in numbered_rows(path))
        return
    for number, entry in enumerate(read_json(path), start=1):
        if not isinstance(entry, dict):
            raise UserError(f"{path}, entry {number}: is not a JSON object")
        yield f"entry {number}", entry
