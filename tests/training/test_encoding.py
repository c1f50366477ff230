"""Rows as token sequences, by the documented rule."""

from pathlib import Path

import numpy
import pytest
from transformers import AutoTokenizer

from magicoder.training.encoding import Sequences, encode
from magicoder.training.layout import padded

TEMPLATE = "Q: {instruction} A: {response}"
ROW = {"instruction": "Wrap {text} at 70", "response": "def wrap(text):\n    return text"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(tiny_model)


def one(tokenizer: AutoTokenizer, row: dict[str, str] = ROW, limit: int = 200) -> Sequences:
    return encode([row], tokenizer, TEMPLATE, limit)


def test_prompt_and_response_are_encoded_apart_between_bos_and_eos(tokenizer: AutoTokenizer) -> None:
    prompt = tokenizer("Q: Wrap {text} at 70 A: ", add_special_tokens=False)["input_ids"]
    response = tokenizer(ROW["response"], add_special_tokens=False)["input_ids"]
    sequences = one(tokenizer)
    assert sequences[0].tolist() == [tokenizer.bos_token_id, *prompt, *response, tokenizer.eos_token_id]
    assert sequences.prompt_lengths[0] == 1 + len(prompt)
    assert sequences.supervised(0) == len(response) + 1


def test_braces_and_placeholders_in_a_row_stay_as_they_are(tokenizer: AutoTokenizer) -> None:
    row = {"instruction": "{response} {0} {", "response": "{instruction}"}
    text = tokenizer.decode(one(tokenizer, row)[0][1:-1])
    assert text == "Q: {response} {0} { A: {instruction}"


def test_a_tokenizer_without_bos_gets_none(tokenizer: AutoTokenizer, tiny_model: Path) -> None:
    without = AutoTokenizer.from_pretrained(tiny_model)
    without.bos_token = None
    assert one(without)[0].tolist() == one(tokenizer)[0].tolist()[1:]


def test_special_tokens_written_in_a_row_are_text_to_the_count_of_bos(tokenizer: AutoTokenizer) -> None:
    assert one(tokenizer)[0].tolist().count(tokenizer.bos_token_id) == 1


def test_long_rows_are_cut_on_the_right_and_counted(tokenizer: AutoTokenizer) -> None:
    whole = one(tokenizer)[0].tolist()
    cut = one(tokenizer, limit=len(whole) - 3)
    assert cut[0].tolist() == whole[:-3]
    assert (cut.cut, cut.unsupervised) == (1, 0)
    assert one(tokenizer, limit=len(whole)).cut == 0


def test_a_row_whose_prompt_fills_the_limit_has_nothing_left_to_learn(tokenizer: AutoTokenizer) -> None:
    sequences = one(tokenizer, limit=5)
    assert sequences.supervised(0) == 0
    assert sequences.unsupervised == 1


def test_the_first_token_of_a_row_without_a_prompt_is_predicted_by_nothing_and_counts_for_nothing(
    tiny_model: Path,
) -> None:
    # Counted, it would lower the loss of its whole update by a share that nobody learns.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.bos_token = None
    rows = [{"instruction": "", "response": "def wrap(text):"}, {"instruction": "i", "response": "x" * 9}]
    sequences = encode(rows, tokenizer, "{instruction}{response}", 200)
    assert sequences.prompt_lengths.tolist() == [0, 1]
    assert [sequences.supervised(row) for row in (0, 1)] == [len(sequences[0]) - 1, len(sequences[1]) - 1]
    (batch,) = padded(sequences, [numpy.array([0, 1])], pad_token_id=0)
    assert batch.weights[0, 0] == 0
    assert (batch.weights > 0).sum() == batch.supervised
    assert batch.weights.sum().item() == pytest.approx(1.0)


def test_half_a_character_in_a_row_is_a_question_mark_to_the_tokenizer(tokenizer: AutoTokenizer) -> None:
    broken = one(tokenizer, {"instruction": "a \ud83d", "response": "b \udc00\ud83d c"})
    whole = one(tokenizer, {"instruction": "a ?", "response": "b ?? c"})
    assert broken[0].tolist() == whole[0].tolist()


def test_padding_and_prompts_weigh_nothing_and_the_weights_of_an_update_sum_to_one(tokenizer: AutoTokenizer) -> None:
    rows = [ROW, {"instruction": "i", "response": "x" * 60}, {"instruction": "longer " * 9, "response": "y"}]
    sequences = encode(rows, tokenizer, TEMPLATE, 200)
    update = [numpy.array([0, 1]), numpy.array([2])]
    batches = list(padded(sequences, update, pad_token_id=0))
    assert sum(batch.weights.sum().item() for batch in batches) == pytest.approx(1.0)
    first = batches[0]
    assert (first.weights > 0).sum() == sequences.supervised(0) + sequences.supervised(1) == first.supervised
    for place in range(2):
        assert first.weights[place, : sequences.prompt_lengths[place]].sum() == 0
        assert first.weights[place, len(sequences[place]) :].sum() == 0
        assert first.attention_mask[place].sum() == len(sequences[place])
