"""Attention of packed documents against the same documents alone, in models of transformers."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    GPTBigCodeConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Starcoder2Config,
)

from magicoder.runtime.errors import UserError
from magicoder.training import attention

WINDOW = 12
LENGTHS = [5, 1, 9, WINDOW, 2]
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama with grouped heads": LlamaConfig(**GROUPED),
    "starcoder, of which all heads share one key": GPTBigCodeConfig(vocab_size=97, n_embd=32, n_layer=2, n_head=4),
    "starcoder2": Starcoder2Config(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "granite, which scales its scores otherwise": GraniteConfig(**GROUPED, attention_multiplier=2.0),
    "mistral with a sliding window": MistralConfig(**GROUPED, sliding_window=WINDOW),
}


@pytest.fixture(autouse=True)
def registered() -> None:
    attention.register()


def model(config: PretrainedConfig, implementation: str) -> Any:
    """The same weights every time, without dropout."""
    torch.manual_seed(0)
    copy = type(config).from_dict(config.to_dict())
    return AutoModelForCausalLM.from_config(copy, attn_implementation=implementation, dtype=torch.float32).eval()


def documents(lengths: list[int] = LENGTHS) -> list[torch.Tensor]:
    return list(torch.randint(97, (sum(lengths),), generator=torch.Generator().manual_seed(1)).split(lengths))


def packed(parts: list[torch.Tensor]) -> dict[str, Any]:
    lengths = [len(part) for part in parts]
    return {
        "input_ids": torch.cat(parts)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "documents": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        "longest": max(lengths),
        "use_cache": False,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_have_the_logits_of_each_alone(family: str) -> None:
    parts = documents()
    together, alone = (model(FAMILIES[family], implementation) for implementation in (attention.NAME, "sdpa"))
    logits = together(**packed(parts)).logits[0]
    expected = torch.cat([alone(input_ids=part[None], use_cache=False).logits[0] for part in parts])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)

    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (logits * direction).sum().backward()
    (expected * direction).sum().backward()
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_changed_token_affects_only_its_own_document() -> None:
    parts = documents()
    llama = model(FAMILIES["llama with grouped heads"], attention.NAME)
    with torch.no_grad():
        before = llama(**packed(parts)).logits[0].split(LENGTHS)
        parts[2][4] = (parts[2][4] + 1) % 97
        after = llama(**packed(parts)).logits[0].split(LENGTHS)
    for document in (0, 1, 3, 4):
        assert torch.equal(before[document], after[document])
    assert torch.equal(before[2][:4], after[2][:4])
    assert (before[2][4:] != after[2][4:]).any(dim=1).all()


def test_without_documents_each_sequence_is_attended_to_causally() -> None:
    # A padded batch: what is on the right is seen by nothing on the left.
    first, second = documents([9, 9])
    llama = model(FAMILIES["llama with grouped heads"], attention.NAME)
    reference = model(FAMILIES["llama with grouped heads"], "eager")
    with torch.no_grad():
        both = torch.stack([first, second])
        torch.testing.assert_close(llama(both).logits, reference(both).logits, rtol=0, atol=1e-6)


def test_document_beyond_a_sliding_window_is_refused() -> None:
    mistral = model(FAMILIES["mistral with a sliding window"], attention.NAME)
    with pytest.raises(UserError, match=r"needs attention with sliding_window; use train\.layout=padded"):
        mistral(**packed(documents([5, WINDOW + 1])))
    with pytest.raises(UserError, match="sliding_window"):
        mistral(documents([WINDOW + 1])[0][None])


def test_attention_with_capped_scores_is_refused() -> None:
    gemma = model(Gemma2Config(**GROUPED, head_dim=8), attention.NAME)
    with pytest.raises(UserError, match="needs attention with softcap"):
        gemma(**packed(documents()))


def test_model_that_hides_documents_in_training_is_refused() -> None:
    # One that drops what it does not know would let all documents see each other.
    bins = packed(documents())
    del bins["documents"], bins["longest"]
    with pytest.raises(UserError, match="does not pass documents to its attention"):
        model(FAMILIES["llama"], attention.NAME).train()(**bins)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_answers_with_it_as_it_does_without(family: str) -> None:
    # With a cache of keys, and past the window of the one that has one.
    prompt = documents([7])[0][None]
    answers = []
    for implementation in (attention.NAME, "sdpa"):
        generated = model(FAMILIES[family], implementation).generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        answers.append((generated.sequences, torch.stack(generated.logits)))
    (ours, our_logits), (theirs, their_logits) = answers
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(our_logits, their_logits, rtol=0, atol=1e-6)


def test_a_model_loaded_with_it_is_the_one_that_was_saved(tiny_model: Path) -> None:
    parts = documents()
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention.NAME)
    alone = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        logits = loaded(**packed(parts)).logits[0]
        expected = torch.cat([alone(part[None]).logits[0] for part in parts])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_model_with_its_own_attention_code_is_refused() -> None:
    bloom = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(UserError, match="bloom has its own attention code"):
        attention.keep_documents_apart(bloom)
