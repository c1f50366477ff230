"""Evol-Instruct: choose how an instruction evolves, and reject evolved instructions that failed.

The operations and the elimination of failures are ideas of Xu et al. (WizardLM, https://arxiv.org/abs/2304.12244)
and, for code, of Luo et al. (WizardCoder, https://arxiv.org/abs/2306.08568); words and rules here are our own.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import numpy

from magicoder.curation.exact_duplicates import strip_whitespace
from magicoder.generation.outcomes import read_words, reject_without_answer
from magicoder.generation.parsing import reject_unfinished
from magicoder.storage.rejected import Rejection
from magicoder.teacher.records import Answered, Record

PLACEHOLDER = re.compile(r"\{(operation|instruction)\}")
NAME = re.compile(r"\[([^\[\]\n]+)\]|#+([^#\n]+)")
"""Names in a prompt: `[Name]`, `### Name`, `#Name#`."""
WORD = re.compile(r"\w+")
QUOTE_WORDS = 8
"""So many consecutive words of the prompt are not a coincidence."""
APOLOGY_WORDS = 80
"""An answer with fewer words than this and an apology is nothing else; the number is WizardLM's."""
FENCE = "```"
UNWILLING = re.compile(
    r"\b(i'm|i am|we're|we are|so) sorry\b|^sorry\b|\bapologi[sz]e\b|\bmy apologies\b|\bas an ai\b"
    r"|\b(i|we) (can't|can ?not|won't|will not|am (not able|unable) to|are (not able|unable) to) "
    r"(answer|assist|comply|continue|create|do|fulfil|generate|give|help|make|provide|rewrite|solve|write)\b"
    r"|\bi'm (not able|unable) to\b",
    re.IGNORECASE,
)
"""Phrases with which a model declines a request."""


def choose_operation(names: Iterable[str], seed: int, index: int, number: int) -> str:
    """Choose the operation of an instruction in round `number`, counted from 1: a function of the arguments alone.

    Each instruction goes through all operations in an order of its own before one repeats, so a failed round is not
    repeated with the same words.
    """
    ordered = sorted(names)
    order = numpy.random.default_rng([seed, index]).permutation(len(ordered))
    return ordered[order[(number - 1) % len(ordered)]]


def fill_template(template: str, operation: str, instruction: str) -> str:
    """Insert both texts into the template. They may contain text that looks like a placeholder; it stays as it is."""
    texts = {"operation": operation, "instruction": instruction}
    return PLACEHOLDER.sub(lambda found: texts[found[1]], template)


def read_text(record: Record, tags: Mapping[str, str]) -> str | Rejection:
    """Return the teacher's text without its thoughts, stripped, or the rejection of the record.

    tags: those around the thoughts.
    """
    if not isinstance(record, Answered):
        return reject_without_answer(record)
    if record.end != "stop":
        return Rejection(reject_unfinished(record.end).reason, record.content)
    text = read_words(record, tags).text
    if text is None:
        return Rejection("no text", record.content)
    if WORD.search(text) is None:
        return Rejection("says nothing", record.content)
    return Rejection("unwilling", record.content) if is_unwilling(text) else text.strip()


def is_unwilling(text: str) -> bool:
    """Return whether a text is an excuse instead of an answer."""
    plain = text.strip().replace("\u2019", "'")
    return len(plain.split()) < APOLOGY_WORDS and FENCE not in plain and UNWILLING.search(plain) is not None


class EvolutionFilter:
    """Rejects evolved instructions that quote their prompt, begin with code, or hardly differ from their origin."""

    def __init__(self, prompt: Iterable[str], similarity: float, tags: Mapping[str, str]) -> None:
        """prompt: the texts around an instruction. similarity: from this value on an instruction counts as
        unchanged. tags: those around the teacher's thoughts."""
        self._phrases = list(dict.fromkeys(phrase for text in prompt for phrase in list_phrases(text)))
        self._similarity, self._tags = similarity, tags

    def read_instruction(self, record: Record, starting: str) -> str | Rejection:
        """Return the instruction that evolved from `starting`, or the rejection of the record."""
        text = read_text(record, self._tags)
        if isinstance(text, Rejection):
            return text
        return self.verdict(text, starting) or text

    def verdict(self, text: str, starting: str) -> Rejection | None:
        """Return None to keep the instruction `text` that evolved from `starting`, else the rejection."""
        if (phrase := self._find_quote(text, starting)) is not None:
            return Rejection("quotes its prompt", phrase.strip())
        if text.startswith(FENCE) and FENCE not in starting:
            return Rejection("begins with code, as solutions do", text)
        if (similarity := compute_similarity(text, starting)) >= self._similarity:
            return Rejection("hardly changed", {"similarity": round(similarity, 3)})
        return None

    def _find_quote(self, text: str, starting: str) -> str | None:
        """Find words of the prompt that the text cannot have from the instruction that it evolved from."""
        spaced = space_words(text)
        origin = space_words(starting)
        return next((phrase for phrase in self._phrases if phrase in spaced and phrase not in origin), None)


def read_answer(record: Record, tags: Mapping[str, str]) -> str | Rejection:
    """Return the answer to an evolved instruction, or the rejection; its reason says that the answer failed."""
    text = read_text(record, tags)
    return Rejection(f"answer: {text.reason}", text.evidence) if isinstance(text, Rejection) else text


def list_phrases(prompt: str) -> Iterable[str]:
    """Yield the phrases that identify a prompt, in the form of `space_words`: its names and its runs of words."""
    for bracketed, after_hash in NAME.findall(prompt):
        name = split_words(bracketed or after_hash)
        if len(name) > 1 and all(map(str.isalpha, name)):  # not `[0, 1]`
            yield f" {' '.join(name)} "
    for piece in PLACEHOLDER.sub("\0", prompt).split("\0"):
        words = split_words(piece)
        for start in range(len(words) - QUOTE_WORDS + 1):
            yield f" {' '.join(words[start : start + QUOTE_WORDS])} "


def compute_similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of the multisets of words, in [0, 1]; 1 for two texts without words."""
    first, second = Counter(split_words(one)), Counter(split_words(other))
    either = (first | second).total()
    return (first & second).total() / either if either else 1.0


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return WORD.findall(text.casefold())


def space_words(text: str) -> str:
    """Return the words of a text with one blank around each."""
    return f" {' '.join(split_words(text))} "


class KnownInstructions:
    """Rejects instructions that occurred before, ignoring whitespace. It keeps digests: there may be many."""

    def __init__(self, starting: Mapping[int, str]) -> None:
        """starting: the instructions of round 0 by index."""
        self._first: dict[bytes, dict[str, int]] = {}
        for index, text in starting.items():
            self.verdict(text, index, 0)

    def verdict(self, text: str, index: int, number: int) -> Rejection | None:
        """Return None for a new instruction, which is known from now on, else the rejection.

        Evidence: index and round of the first occurrence.
        """
        digest = blake2b(strip_whitespace(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        place = {"index": index, "round": number}
        first = self._first.setdefault(digest, place)
        return None if first is place else Rejection("duplicate instruction", first)
