"""Evol-Instruct: in each round one pass evolves the instructions, and a second one answers the survivors."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy

from magicoder.config import GenerateConfig, InstructionsConfig
from magicoder.curation.instructions import append_input
from magicoder.generation.evolution import (
    EvolutionFilter,
    KnownInstructions,
    choose_operation,
    fill_template,
    read_answer,
    read_text,
)
from magicoder.generation.summary import RunSummary
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.storage.files import Source, read_rows, write_rows
from magicoder.storage.inputs import resolve_inputs
from magicoder.storage.rejected import Rejection
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import PromptTooLong, Record
from magicoder.teacher.requests import Request, RequestMaker, prefix_messages
from magicoder.teacher.session import TeacherSession

INSTRUCTIONS = "instructions.jsonl"
EVOLVING, ANSWERING = "journal-evolve-", "journal-answer-"
"""Prefixes of a round's journals, followed by its number."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """One request for each of some instructions, and a function that reads the text of a record or rejects it."""

    name: str
    journal: Journal
    request: Callable[[int], Request | PromptTooLong]
    read: Callable[[Record], str | Rejection]

    def ask(self, session: TeacherSession, indices: list[int], *, reopen: bool) -> None:
        """Journal the outcome of the instructions that the journal lacks. Errors: as `TeacherSession.ask`.

        reopen: ask again where the limits of tokens have changed so that it may help.
        """
        for index in sorted(self.journal.list_reopenable() & set(indices) if reopen else ()):
            request = self.request(index)
            if isinstance(request, Request):
                self.journal.reopen_if_cured(request)
        remaining = [index for index in indices if index not in self.journal]
        remaining.sort(key=self.journal.left.__contains__)  # last those that may have stopped a former run
        done, total = len(indices) - len(remaining), len(indices)
        session.ask(self.name, self._make_requests(remaining), self.journal, done, total, self._verdict)

    def read_outcome(self, index: int) -> str | Rejection:
        """Return the text of an instruction's record, or its rejection."""
        return self.read(self.journal[index])

    def _make_requests(self, indices: list[int]) -> Iterator[Request]:
        for index in indices:
            request = self.request(index)
            if isinstance(request, PromptTooLong):
                self.journal.append(request)
            else:
                yield request

    def _verdict(self, record: Record) -> Rejection | None:
        outcome = self.read(record)
        return outcome if isinstance(outcome, Rejection) else None


@dataclass(frozen=True)
class Round:
    """The journals of a round, the rejections of its instructions, and those without an outcome."""

    number: int
    evolving: Journal
    answering: Journal
    rejected: dict[int, Rejection] = field(default_factory=dict)
    unanswered: set[int] = field(default_factory=set)


class EvolInstruct:
    """One run: the instructions, the requests about them, and the rows derived from the answers."""

    def __init__(self, settings: GenerateConfig, directory: Path, count_tokens: Callable[[str], int]) -> None:
        """Choose the instructions, unless a former run has: what the teacher is paid for must not change later.

        Errors: UserError if a file holds anything but instructions, or fewer than are skipped.
        """
        self._code, self._prompt = get_instructions_config(settings), settings.prompt
        self._evolution = self._code.evolve
        self._path = directory / INSTRUCTIONS
        if not self._path.exists():
            write_rows(self._path, choose_instructions(settings))
        self._starting: dict[int, str] = {
            row["index"]: row["instruction"] for row in read_rows(self._path) if "index" in row
        }
        around = [self._prompt.system, self._prompt.user, *self._prompt.operations.values()]
        self._tags = settings.teacher.thought_tags
        self._filter = EvolutionFilter(filter(None, around), self._evolution.similarity, self._tags)
        self._evolve = RequestMaker(settings.teacher, prefix_messages(self._prompt), self._code.seed, count_tokens)
        # Worked examples show how to evolve, so the answering pass has the system message alone.
        system = [message for message in prefix_messages(self._prompt) if message["role"] == "system"]
        self._answer = RequestMaker(settings.teacher, system, self._code.seed, count_tokens)
        self._rounds: list[Round] = []
        self._surplus_rounds: list[Round] = []

    def plan(self) -> Iterator[Request | PromptTooLong]:
        """Yield every request of the first pass, or the record of a prompt that is too long. Later passes depend on
        it."""
        for index, instruction in self._starting.items():
            yield self._evolve.make(index, self._make_prompt(index, instruction, 1))

    def open(self, session: TeacherSession) -> None:
        """Open the journals, also those of rounds that this run does not want: the budget must count what former runs
        spent. Errors: UserError for a journal of another run."""
        first = self._code.seed_code_start_index
        indices = range(first, first + len(self._starting))
        opened = [
            Round(
                number,
                session.open_journal(f"{EVOLVING}{number}.jsonl", indices),
                session.open_journal(f"{ANSWERING}{number}.jsonl", indices),
            )
            for number in range(1, max(self._evolution.rounds, self._count_former_rounds()) + 1)
        ]
        self._rounds, self._surplus_rounds = opened[: self._evolution.rounds], opened[self._evolution.rounds :]

    def ask(self, session: TeacherSession) -> None:
        """Journal the outcome of every instruction in every round. Errors: as `TeacherSession.ask`.

        An instruction that is rejected in a round enters the next one in its last accepted form.
        """
        instructions, known = dict(self._starting), KnownInstructions(self._starting)
        for current in self._rounds:
            evolved = self._evolve_all(session, current, instructions, known)
            instructions |= self._answer_all(session, current, evolved)

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive rows and rejected rows from what the journals hold, in the order of index and round.

        `in` counts each instruction once a round, so it is the sum of rows and rejected rows.
        """
        blank = [row for row in read_rows(self._path) if "index" not in row]
        kept = write_rows(artifact.path(ROWS), self._derive_kept())
        dropped = write_rows(artifact.path(REJECTED), chain(self._derive_rejected(), blank)) - len(blank)
        counts = {"in": kept + dropped, "out": kept, "rejected": dropped}
        counts |= {"instructions": len(self._starting), "blank_instructions": len(blank)}
        funnel = [("instructions, once a round", kept + dropped), ("kept", kept)]
        unanswered = sum(len(current.unanswered) for current in self._rounds)
        return RunSummary(
            counts, funnel, Counter(row["reason"] for row in self._derive_rejected()), unanswered=unanswered
        )

    def _evolve_all(
        self, session: TeacherSession, current: Round, instructions: Mapping[int, str], known: KnownInstructions
    ) -> dict[int, str]:
        """Run the first pass of a round: return the accepted instructions, and note the rejections in the round."""
        evolving = Pass(
            f"evolve, round {current.number} of {len(self._rounds)}",
            current.evolving,
            lambda index: self._evolve.make(index, self._make_prompt(index, instructions[index], current.number)),
            lambda record: self._filter.read_instruction(record, instructions[record.index]),
        )
        try:
            evolving.ask(session, list(instructions), reopen=self._is_last_begun(current))
        except BaseException:
            # So that a run that ends here can still write what it has.
            self._settle_answers(current, self._settle_evolved(current, evolving, instructions, known))
            raise
        return self._settle_evolved(current, evolving, instructions, known)

    def _settle_evolved(
        self, current: Round, evolving: Pass, instructions: Mapping[int, str], known: KnownInstructions
    ) -> dict[int, str]:
        """Return the accepted instructions of the journal; note the rejected ones and those without an outcome."""
        evolved: dict[int, str] = {}
        for index in instructions:
            if index not in current.evolving:
                current.unanswered.add(index)
                continue
            outcome = evolving.read_outcome(index)
            if isinstance(outcome, str):
                outcome = known.verdict(outcome, index, current.number) or outcome
            if isinstance(outcome, Rejection):
                current.rejected[index] = outcome
            else:
                evolved[index] = outcome
        return evolved

    def _settle_answers(self, current: Round, evolved: Mapping[int, str]) -> None:
        """Note the instructions whose answer is rejected, and those without one."""
        for index in evolved:
            if index not in current.answering:
                current.unanswered.add(index)
            elif isinstance(outcome := read_answer(current.answering[index], self._tags), Rejection):
                current.rejected[index] = outcome

    def _answer_all(self, session: TeacherSession, current: Round, evolved: Mapping[int, str]) -> dict[int, str]:
        """Run the second pass: return the instructions with an accepted answer, and note the rejections in the
        round."""
        answering = Pass(
            f"answer, round {current.number} of {len(self._rounds)}",
            current.answering,
            lambda index: self._answer.make(index, evolved[index]),
            lambda record: read_answer(record, self._tags),
        )
        try:
            answering.ask(session, list(evolved), reopen=self._is_last_begun(current))
        finally:
            self._settle_answers(current, evolved)
        return {index: text for index, text in evolved.items() if index not in current.rejected}

    def _is_last_begun(self, current: Round) -> bool:
        """Return whether no later round builds on this one: another answer here would contradict it."""
        later = [*self._rounds[current.number :], *self._surplus_rounds]
        return not any(len(each.evolving) for each in later)

    def _count_former_rounds(self) -> int:
        return sum(1 for _ in self._path.parent.glob(f"{EVOLVING}*.jsonl"))

    def _make_prompt(self, index: int, instruction: str, number: int) -> str:
        return fill_template(
            self._prompt.user, self._prompt.operations[self._choose_operation(index, number)], instruction
        )

    def _choose_operation(self, index: int, number: int) -> str:
        return choose_operation(self._prompt.operations, self._code.seed, index, number)

    def _derive_kept(self) -> Iterator[Row]:
        for row, current in self._list_evolutions():
            if row["index"] not in current.rejected:
                yield {**row, "output": read_answer(current.answering[row["index"]], self._tags)}

    def _derive_rejected(self) -> Iterator[Row]:
        for row, current in self._list_evolutions():
            if (rejection := current.rejected.get(row["index"])) is not None:
                yield rejection.as_row(row)

    def _list_evolutions(self) -> Iterator[tuple[Row, Round]]:
        """Yield each instruction in each round: its origin and, if the teacher wrote one, the evolved text."""
        for index, starting in self._starting.items():
            instruction = starting
            for current in self._rounds:
                if index in current.unanswered or index not in current.evolving:
                    break  # the run ended before: later rounds build on this one
                if index not in current.rejected and index not in current.answering:
                    break
                operation = self._choose_operation(index, current.number)
                row = {"index": index, "round": current.number, "operation": operation, "seed": instruction}
                evolved = read_text(current.evolving[index], self._tags)
                yield row if isinstance(evolved, Rejection) else {**row, "instruction": evolved}, current
                if isinstance(evolved, str) and index not in current.rejected:
                    instruction = evolved


def get_instructions_config(settings: GenerateConfig) -> InstructionsConfig:
    """Return `data.generate` of a run whose source is instructions."""
    assert isinstance(settings.data.generate, InstructionsConfig), "the registry of recipes ensures it"
    return settings.data.generate


def choose_instructions(settings: GenerateConfig) -> list[Row]:
    """Return the instructions of this run in the documented order, each with its position in the files; then blank
    ones."""
    code = get_instructions_config(settings)
    files = resolve_inputs(code.evolve.instruction_files, made_by="preprocess")
    considered = islice(chain.from_iterable(map(read_instructions, files)), code.max_considered_data)
    rows: list[Row] = [{"raw_index": position, "instruction": text} for position, text in enumerate(considered)]
    blank = [{"reason": "blank instruction", **row} for row in rows if not row["instruction"].strip()]
    rows = [row for row in rows if row["instruction"].strip()]
    first = code.seed_code_start_index
    if first >= len(rows):
        raise UserError(f"data.generate.seed_code_start_index={first}: the files hold only {len(rows)} instructions")
    order = numpy.random.default_rng(code.seed).permutation(len(rows))[first : first + code.max_new_data]
    return [*({"index": index, **rows[position]} for index, position in enumerate(order, start=first)), *blank]


def read_instructions(source: Source) -> Iterator[str]:
    """Yield the instructions of a source, with their input, if any, appended as in CodeAlpaca.

    Errors: UserError naming the row whose instruction is not text.
    """
    return (append_input(row) for row in read_rows(source, ("instruction",), optional=("input",)))
