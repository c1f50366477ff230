"""Rows as token sequences, by the documented rule, in a folder that is whole or not there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
from transformers import AutoTokenizer

from magicoder.training.tokenization import CHUNK_ROWS, ENDS, PROMPT_LENGTHS, TOKENS, Counts, Sequences, tokenize_rows

TEMPLATE = "Q: {instruction} A: {response}"
ROW = {"instruction": "Wrap {text} at 70", "response": "def wrap(text):\n    return text"}

Encoded = Callable[..., Sequences]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def one(tokenizer: AutoTokenizer, tmp_path: Path) -> Encoded:
    """The sequences of one row alone."""
    made = iter(range(100))

    def encoded(row: dict[str, str] = ROW, limit: int = 200, tokenizer: AutoTokenizer = tokenizer) -> Sequences:
        return tokenize_rows([row], tokenizer, TEMPLATE, limit, tmp_path / f"sequences{next(made)}")

    return encoded


def supervised(sequences: Sequences) -> list[int]:
    return sequences.count_supervised(numpy.arange(len(sequences))).tolist()


def test_prompt_and_response_are_tokenized_separately(tokenizer: AutoTokenizer, one: Encoded) -> None:
    prompt = tokenizer("Q: Wrap {text} at 70 A: ", add_special_tokens=False)["input_ids"]
    response = tokenizer(ROW["response"], add_special_tokens=False)["input_ids"]
    sequences = one()
    assert sequences[0].tolist() == [tokenizer.bos_token_id, *prompt, *response, tokenizer.eos_token_id]
    assert sequences.prompt_lengths[0] == 1 + len(prompt)
    assert supervised(sequences) == [len(response) + 1]


def test_braces_and_placeholders_in_a_row_stay_as_they_are(tokenizer: AutoTokenizer, one: Encoded) -> None:
    row = {"instruction": "{response} {0} {", "response": "{instruction}"}
    text = tokenizer.decode(one(row)[0][1:-1])
    assert text == "Q: {response} {0} { A: {instruction}"


def test_a_tokenizer_without_bos_gets_none(tiny_model: Path, one: Encoded) -> None:
    without = AutoTokenizer.from_pretrained(tiny_model)
    without.bos_token = None
    assert one(tokenizer=without)[0].tolist() == one()[0].tolist()[1:]


def test_long_rows_are_cut_on_the_right_and_counted(one: Encoded) -> None:
    whole = one()[0].tolist()
    cut = one(limit=len(whole) - 3)
    assert cut[0].tolist() == whole[:-3]
    assert cut.counts == Counts(rows=1, cut=1, unsupervised=0, longest=len(whole) - 3, largest_token=max(whole[:-3]))
    assert one(limit=len(whole)).counts == Counts(1, 0, 0, longest=len(whole), largest_token=max(whole))


def test_prompt_that_fills_the_limit_leaves_no_supervised_token(one: Encoded) -> None:
    sequences = one(limit=5)
    assert supervised(sequences) == [0]
    assert sequences.prompt_lengths.tolist() == [5]
    assert sequences.counts.unsupervised == 1


def test_first_token_without_a_prompt_is_not_supervised(tiny_model: Path, tmp_path: Path) -> None:
    # Counted, it would lower the loss of its whole update by a share that nobody learns.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.bos_token = None
    rows = [{"instruction": "", "response": "def wrap(text):"}, {"instruction": "i", "response": "x" * 9}]
    sequences = tokenize_rows(rows, tokenizer, "{instruction}{response}", 200, tmp_path / "sequences")
    assert sequences.prompt_lengths.tolist() == [0, 1]
    assert supervised(sequences) == [len(sequences[0]) - 1, len(sequences[1]) - 1]
    only_one_token = tokenize_rows(rows[:1], tokenizer, "{instruction}{response}", 1, tmp_path / "cut")
    assert supervised(only_one_token) == [0]
    assert only_one_token.counts.unsupervised == 1


def test_lone_surrogate_in_a_row_becomes_a_question_mark(one: Encoded) -> None:
    broken = one({"instruction": "a \ud83d", "response": "b \udc00\ud83d c"})
    whole = one({"instruction": "a ?", "response": "b ?? c"})
    assert broken[0].tolist() == whole[0].tolist()


def many_rows(number: int) -> Iterator[dict[str, str]]:
    """Of all lengths, some without an instruction or a response."""
    drawn = numpy.random.default_rng(0).integers(0, 40, (number, 2)).tolist()
    for words, lines in drawn:
        yield {"instruction": "wrap " * words, "response": "return text\n" * lines}


@pytest.mark.parametrize("opening", ["<s>", None])
def test_counts_of_many_rows_equal_those_of_each_row(tiny_model: Path, tmp_path: Path, opening: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.bos_token = opening
    template, number = "{instruction}{response}", CHUNK_ROWS + 10  # two rounds of the tokenizer
    sequences = tokenize_rows(many_rows(number), tokenizer, template, 30, tmp_path / "sequences")
    assert len(sequences) == sequences.counts.rows == number
    rows = numpy.random.default_rng(1).permutation(number)
    lengths = [len(sequences[row]) for row in rows.tolist()]
    prompts = [int(sequences.prompt_lengths[row]) for row in rows.tolist()]
    learnt = [max(0, length - max(prompt, 1)) for length, prompt in zip(lengths, prompts, strict=True)]
    assert sequences.measure_lengths(rows).tolist() == lengths
    assert sequences.count_supervised(rows).tolist() == learnt
    assert sequences.counts.longest == max(lengths) == 30
    assert sequences.counts.unsupervised == learnt.count(0) > 0
    # The second round continues at the end of the first.
    last = tokenizer(list(many_rows(number))[-1]["instruction"], add_special_tokens=False)["input_ids"]
    opened = [] if opening is None else [tokenizer.bos_token_id]
    assert sequences[number - 1].tolist()[: len(opened) + len(last)] == (opened + last)[:30]


def test_no_rows_at_all_are_no_sequences(tokenizer: AutoTokenizer, tmp_path: Path) -> None:
    assert len(tokenize_rows([], tokenizer, TEMPLATE, 200, tmp_path / "sequences")) == 0


def test_sequences_are_memory_mapped_and_read_only(one: Encoded) -> None:
    sequences = one()
    for array in (sequences.tokens, sequences.ends, sequences.prompt_lengths):
        assert isinstance(array, numpy.memmap)
        assert not array.flags.writeable


def test_whoever_opens_the_folder_reads_what_was_encoded(tokenizer: AutoTokenizer, tmp_path: Path) -> None:
    written = tokenize_rows(many_rows(20), tokenizer, TEMPLATE, 40, tmp_path / "sequences")
    read = Sequences(tmp_path / "sequences")
    assert read.counts == written.counts
    for name in ("tokens", "ends", "prompt_lengths"):
        assert numpy.array_equal(getattr(read, name), getattr(written, name))
    sizes = [(tmp_path / "sequences" / name).stat().st_size for name in (TOKENS, ENDS, PROMPT_LENGTHS)]
    assert sizes == [4 * read.ends[-1], 8 * 20, 4 * 20]


def test_an_error_while_encoding_leaves_nothing_behind(tokenizer: AutoTokenizer, tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield from many_rows(CHUNK_ROWS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_rows(rows(), tokenizer, TEMPLATE, 40, tmp_path / "sequences")
    assert list(tmp_path.iterdir()) == []


def test_unfinished_folder_never_looks_complete(tokenizer: AutoTokenizer, tmp_path: Path) -> None:
    # A process that is killed leaves what is there at that moment.
    folder = tmp_path / "sequences"
    seen = []

    def rows() -> Iterator[dict[str, str]]:
        for number, row in enumerate(many_rows(3 * CHUNK_ROWS)):
            if number % CHUNK_ROWS == 0:
                seen.append([path.name.startswith(".") for path in tmp_path.iterdir()])
            yield row
        seen.append([path.name.startswith(".") for path in tmp_path.iterdir()])

    tokenize_rows(rows(), tokenizer, TEMPLATE, 40, folder)
    assert seen == [[True]] * 4
    assert list(tmp_path.iterdir()) == [folder]
