"""Evol-Instruct: how an instruction is to be made harder, and which of those that came out are eliminated.

Ways of evolving and the elimination of what failed are ideas of Xu et al. (WizardLM, https://arxiv.org/abs/2304.12244)
and, for code, of Luo et al. (WizardCoder, https://arxiv.org/abs/2306.08568); words and rules here are our own.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy

from magicoder.curation.exact_duplicates import strip_whitespace
from magicoder.generation.outcomes import evidence, reason_of
from magicoder.generation.parsing import unfinished

PLACEHOLDER = re.compile(r"\{(operation|instruction)\}")
NAME = re.compile(r"\[([^\[\]\n]+)\]|#+([^#\n]+)")
"""What a prompt calls something by a name of its own: `[Name]`, `### Name`, `#Name#`."""
WORD = re.compile(r"\w+")
RUN = 8
"""So many words in a row of the prompt are no coincidence."""
SHORT = 80
"""An apology in fewer words than these is all that an answer says; the number is WizardLM's."""
FENCE = "```"
UNWILLING = re.compile(
    r"\b(i'm|i am|we're|we are|so) sorry\b|^sorry\b|\bapologi[sz]e\b|\bmy apologies\b|\bas an ai\b"
    r"|\b(i|we) (can't|can ?not|won't|will not|am (not able|unable) to|are (not able|unable) to) "
    r"(answer|assist|comply|continue|create|do|fulfil|generate|give|help|make|provide|rewrite|solve|write)\b"
    r"|\bi'm (not able|unable) to\b",
    re.IGNORECASE,
)
"""How a model says that it does not do what it was asked for."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Eliminated:
    """Why a text goes no further, and what shows it."""

    reason: str
    evidence: Any


def operation_for(names: Iterable[str], seed: int, index: int, number: int) -> str:
    """The operation of an instruction in round `number`, from 1: a function of these alone.

    Each instruction goes through all operations in an order of its own before one comes again, so that what failed in
    one round is not asked again in the same words in the next.
    """
    ordered = sorted(names)
    order = numpy.random.default_rng([seed, index]).permutation(len(ordered))
    return ordered[order[(number - 1) % len(ordered)]]


def filled(template: str, operation: str, instruction: str) -> str:
    """The template with both texts in place, which may themselves hold what looks like a placeholder."""
    texts = {"operation": operation, "instruction": instruction}
    return PLACEHOLDER.sub(lambda found: texts[found[1]], template)


def text_of(record: Record) -> str | Eliminated:
    """What the teacher wrote, stripped, by a record of the journal."""
    if "answer" not in record:
        return Eliminated(str(reason_of(record, "strict")), evidence(record))
    choice, content = record["answer"]["choices"][0], evidence(record)
    if choice.get("finish_reason") != "stop":
        return Eliminated(unfinished(choice.get("finish_reason")), content)
    if not isinstance(content, str):
        return Eliminated("no text", content)
    if WORD.search(content) is None:
        return Eliminated("says nothing", content)
    if is_unwilling(content):
        return Eliminated("unwilling", content)
    return content.strip()


def is_unwilling(text: str) -> bool:
    """Whether a text is an excuse in place of what was asked for."""
    plain = text.strip().replace("\u2019", "'")
    return len(plain.split()) < SHORT and FENCE not in plain and UNWILLING.search(plain) is not None


class Elimination:
    """Tells evolved instructions that turned out well from those that did not."""

    def __init__(self, prompt: Iterable[str], similarity: float) -> None:
        """prompt: the texts around an instruction. similarity: from which on an instruction counts as the same."""
        self._phrases = list(dict.fromkeys(phrase for text in prompt for phrase in phrases(text)))
        self._similarity = similarity

    def evolved(self, record: Record, starting: str) -> str | Eliminated:
        """The instruction that came of `starting`, by a record of the journal."""
        text = text_of(record)
        if isinstance(text, Eliminated):
            return text
        if (phrase := self._leaked(text, starting)) is not None:
            return Eliminated("quotes its prompt", phrase.strip())
        if text.startswith(FENCE) and FENCE not in starting:
            return Eliminated("begins with code, as solutions do", text)
        if (alike := similarity(text, starting)) >= self._similarity:
            return Eliminated("hardly changed", {"similarity": round(alike, 3)})
        return text

    def _leaked(self, text: str, starting: str) -> str | None:
        """Words of the prompt in a text which it cannot have from the instruction that it grew from."""
        spoken = spaced(text)
        return next((phrase for phrase in self._phrases if phrase in spoken and phrase not in spaced(starting)), None)


def answered(record: Record) -> str | Eliminated:
    """The answer to an evolved instruction, by a record of the journal; reasons tell that the answer has failed."""
    text = text_of(record)
    return Eliminated(f"answer: {text.reason}", text.evidence) if isinstance(text, Eliminated) else text


def phrases(prompt: str) -> Iterable[str]:
    """What gives a prompt away, as `spaced` has it: its names of two words and more, and each of its runs of words."""
    for bracketed, behind_hash in NAME.findall(prompt):
        name = words(bracketed or behind_hash)
        if len(name) > 1 and all(map(str.isalpha, name)):  # not `[0, 1]`
            yield f" {' '.join(name)} "
    for piece in PLACEHOLDER.sub("\0", prompt).split("\0"):
        spoken = words(piece)
        for start in range(len(spoken) - RUN + 1):
            yield f" {' '.join(spoken[start : start + RUN])} "


def similarity(one: str, other: str) -> float:
    """The share of words that two texts have in common, whatever their order: Jaccard's, each word counted."""
    first, second = Counter(words(one)), Counter(words(other))
    either = (first | second).total()
    return (first & second).total() / either if either else 1.0


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return WORD.findall(text.casefold())


def spaced(text: str) -> str:
    """The words of a text, a blank around each."""
    return f" {' '.join(words(text))} "


class Known:
    """The instructions that were there so far, whitespace aside. Of each a digest is kept: they may be many."""

    def __init__(self, starting: Mapping[int, str]) -> None:
        """starting: by their index, those of round 0."""
        self._first: dict[bytes, dict[str, int]] = {}
        for index, text in starting.items():
            self.repeated(text, index, 0)

    def repeated(self, text: str, index: int, number: int) -> Eliminated | None:
        """None for a new instruction, which is known from now on; else where it was before."""
        digest = blake2b(strip_whitespace(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        place = {"index": index, "round": number}
        first = self._first.setdefault(digest, place)
        return None if first is place else Eliminated("duplicate instruction", first)
