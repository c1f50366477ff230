"""The card of a trained model: what the hub reads of it, its lineage, and names that could break it."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from magicoder import models
from magicoder.config import identity
from magicoder.reports.markdown import format_table, quote_block, quote_code
from magicoder.reports.model_card import USAGE, build_model_card, find_finished_stages
from magicoder.storage.files import digest
from magicoder.storage.inputs import digest_inputs, name_input
from magicoder.training.chat_template import build_chat_template

HOSTILE = [
    "a|b",
    "a\\|b`c``d",
    "| --- |",
    "<script>alert(1)</script> &amp; <!--",
    "[a](javascript:b) ![c](d)",
    "*a* _b_ __init__.py ~~c~~ $d$",
    "# a - 1. > b",
    "é 漢字 😀",
    "@someone #1",
]
COUNTS = {"in": 10, "cut": 1, "updates": 20, "loss": 0.5}


@pytest.fixture
def card(settings: Callable[..., Any]) -> Callable[..., str]:
    """card(inputs, stages, *overrides): the card of a model trained with the demo's settings."""

    def written(inputs: dict[str, str], stages: list[Any], *overrides: str, name: str = "magicoder") -> str:
        config = identity.select_identity(settings("stage=train", "experiment=demo/train_oss", *overrides))
        return build_model_card(
            name, config=config, inputs=inputs, counts=COUNTS, versions={"torch": "2"}, stages=stages
        )

    return written


def finish(directory: Path, stage: str, inputs: dict[str, str], **outputs: str) -> Path:
    """A finished stage's directory with its manifest and its outputs."""
    directory.mkdir(parents=True)
    for name, text in outputs.items():
        (directory / f"{name}.jsonl").write_text(text)
    digests = digest_inputs(directory.glob("*.jsonl"))
    manifest = {
        "stage": stage,
        "config": {},
        "inputs": inputs,
        "counts": {"in": 3, "out": 2},
        "outputs": {name.split("/")[-1]: digest for name, digest in digests.items()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory / "rows.jsonl"


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(text)


def test_the_hub_reads_what_the_model_is(card: Callable[..., str]) -> None:
    parsed = ModelCard(card({"model.init": "hub:deepseek-ai/deepseek-coder-6.7b-base"}, []))
    assert parsed.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "deepseek-ai/deepseek-coder-6.7b-base",
        "tags": ["code", "magicoder"],
    }
    assert parsed.text.lstrip().startswith("# <code>magicoder</code>\n")


@pytest.mark.parametrize("weights", ["0" * 64, json.dumps({"model.safetensors": "0" * 64})])
def test_weights_of_this_machine_are_no_base_model_of_the_hub(weights: str, card: Callable[..., str]) -> None:
    assert "base_model" not in ModelCard(card({"model.init": weights}, [])).data.to_dict()


def test_base_model_is_where_the_first_training_began(card: Callable[..., str], tmp_path: Path) -> None:
    finish(tmp_path / "magicoder", "train", {"model.init": "hub:owner/base"}, weights="w")
    fingerprint = models.compute_fingerprint(str(with_config(tmp_path / "magicoder")))
    stages = find_finished_stages([tmp_path / "magicoder"], tmp_path / "nowhere")
    assert ModelCard(card({"model.init": fingerprint}, stages)).data.base_model == "owner/base"


def with_config(directory: Path) -> Path:
    (directory / "config.json").write_text("{}")
    return directory


def test_the_recipe_is_told_with_its_units(card: Callable[..., str]) -> None:
    values = {
        "max_training_seq_length": 384,
        "global_batch_size": 512,
        "learning_rate": 1e-4,
        "warmup_steps": 15,
        "max_grad_norm": 0.5,
        "bf16": True,
        "rounding": "stochastic",
    }
    text = card({"model.init": "0"}, [], *(f"train.{key}={value}" for key, value in values.items()))
    for line in (
        "| rows | 10, 1 of them truncated to the sequence limit |",
        "| sequence limit | 384 tokens |",
        "| sequences per update | 512 |",
        "| updates | 20 |",
        "| learning rate | 0.0001 |",
        "| schedule | <code>linear</code> after 15 updates of warmup |",
        "| gradient clipping | norm 0.5 |",
        "| parameters | bfloat16, rounded: <code>stochastic</code> |",
        "| loss of the last update | 0.5000 nats per token |",
    ):
        assert line in text
    assert "![The loss over the updates of training](loss_curve.png)" in text


def test_lineage_leads_back_through_every_stage(card: Callable[..., str], tmp_path: Path) -> None:
    generated = finish(tmp_path / "generate/data-python", "generate", {}, rows="1", rejected="")
    cleaned = finish(tmp_path / "clean", "clean", digest_inputs([generated]), rows="2")
    inputs = {**digest_inputs([cleaned]), "benchmark human_eval": "b" * 64}
    # Nothing was taken out: the result equals the input.
    decontaminated = finish(tmp_path / "decontaminate", "decontaminate", inputs, rows="2")
    preprocessed = finish(tmp_path / "preprocess/src", "preprocess", digest_inputs([decontaminated]), rows="4")
    text = card({**digest_inputs([preprocessed]), "model.init": "0"}, find_finished_stages([preprocessed], tmp_path))
    told = [line for line in text.splitlines() if line.lstrip().startswith("- <code>") or "made by" in line]
    digests = digest_inputs([preprocessed, decontaminated, cleaned, generated])
    src, last, clean, first = (f"<code>{name}</code>: <code>{digest}</code>" for name, digest in digests.items())
    assert told == [
        f"- {src}",
        "  - made by the stage <code>preprocess</code>: in 3, out 2",
        f"    - {last}",
        "      - made by the stage <code>decontaminate</code>: in 3, out 2",
        f"        - {clean}",
        "          - made by the stage <code>clean</code>: in 3, out 2",
        f"            - {first}",
        "              - made by the stage <code>generate</code>: in 3, out 2",
        f"        - <code>benchmark human_eval</code>: <code>{'b' * 64}</code>",
        "- <code>model.init</code>: <code>0</code>",
    ]


def test_changed_file_has_no_lineage(card: Callable[..., str], tmp_path: Path) -> None:
    rows = finish(tmp_path / "clean", "clean", {}, rows="1")
    rows.write_text("changed")
    text = card({name_input(rows): digest(rows), "model.init": "0"}, find_finished_stages([rows], tmp_path))
    assert "made by" not in text


def test_stage_that_equals_its_own_input_is_listed_once(card: Callable[..., str], tmp_path: Path) -> None:
    other = tmp_path / "other/clean/rows.jsonl"
    other.parent.mkdir(parents=True)
    other.write_text("1")
    rows = finish(tmp_path / "clean", "clean", digest_inputs([other]), rows="1")
    text = card({**digest_inputs([rows]), "model.init": "0"}, find_finished_stages([rows], tmp_path))
    assert text.count("made by") == 1


def test_files_beside_foreign_manifests_have_no_lineage(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"version": 3}')
    (tmp_path / "below").mkdir()
    (tmp_path / "below/manifest.json").write_text("no JSON")
    assert find_finished_stages([tmp_path / "rows.jsonl", Path("package:x/y.gguf")], tmp_path) == []


def test_places_of_this_machine_are_not_told(card: Callable[..., str], tmp_path: Path) -> None:
    rows = finish(tmp_path / "private/clean", "clean", {}, rows="1")
    inputs = {**digest_inputs([rows]), "model.init": "0"}
    text = card(inputs, find_finished_stages([rows], tmp_path), f"model.key={tmp_path}/private/base")
    assert "<code>base</code>" in text
    assert "private" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are(name: str) -> None:
    shown = html.escape(name, quote=True).replace("&#x27;", "'")
    assert rendered(f"- {quote_code(name)}") == f"<ul>\n<li><code>{shown}</code></li>\n</ul>\n"
    assert rendered(f"# {quote_code(name)}") == f"<h1><code>{shown}</code></h1>\n"
    cells = rendered(format_table(("a", "b"), [(quote_code(name), "1")]))
    assert f"<td><code>{shown}</code></td>\n<td>1</td>" in cells


@pytest.mark.parametrize("name", ["a\nb", "a\r\n\tb", "a\u2028b", " a b "])
def test_names_of_several_lines_become_one(name: str) -> None:
    assert quote_code(name) == "<code>a b</code>"


def test_bytes_that_are_no_text_can_be_written() -> None:
    assert quote_code(b"a\xff".decode(errors="surrogateescape")).encode() == b"<code>a&#56575;</code>"


def test_a_card_full_of_hostile_names_keeps_its_form(card: Callable[..., str]) -> None:
    prompt = "```\n---\n| {instruction} |\n````\n{response}"
    inputs = {**dict.fromkeys(HOSTILE, "0" * 64), "model.init": "0"}
    text = card(inputs, [], f"prompt.template={json.dumps(prompt)}", name="---\nbase_model: x")
    assert "base_model" not in ModelCard(text).data.to_dict()
    page = rendered(ModelCard(text).text)
    assert page.count("<h1>") == 1
    assert page.count("<h2>") == 4
    assert page.count("<table>") == 1
    assert page.count("<pre>") == 2
    assert page.count("<li>") == len(HOSTILE) + 1


@pytest.mark.parametrize("text", ["plain", "ends\n", "```", "a\n`````\nb", ""])
def test_a_block_holds_any_text(text: str) -> None:
    line_end = "" if text.endswith("\n") else "\n"
    expected = f'<pre><code class="language-text">{html.escape(text)}{line_end}</code></pre>\n'
    assert rendered(quote_block("text", text)) == expected


def test_usage_on_the_card_runs_in_the_model_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = models.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = build_chat_template("{instruction}\n{response}", tokenizer)
    models.save_model(models.load_model(str(tiny_model), bf16=False, attention="eager"), tokenizer, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(USAGE.replace("512", "4"), "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
