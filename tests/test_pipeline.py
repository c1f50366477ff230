"""The demo's stages in their order on small real input: each finds what the one before it wrote, by default."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.chat_server import chat_server
from tests.support import PROJECT, read_jsonl, run_main

TEACHER = ["teacher=vllm", "teacher.model=tiny", "teacher.max_new_tokens=50"]


@pytest.mark.long
def test_documented_pipeline_leads_from_code_to_two_models(tmp_path: Path, tiny_model: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for number in range(8):
        (code / f"module{number}.py").write_text(f"def work{number}(x):\n    return x * {number}\n")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "evol_instruct.jsonl").write_bytes(
        (PROJECT / "examples" / "evol_instruct.jsonl").read_bytes()
    )

    with chat_server() as server:
        teacher = [*TEACHER, f"teacher.tokenizer={tiny_model}", f"teacher.base_url={server.base_url}"]
        for stage, arguments in [
            ("generate", ["experiment=demo/generate", f"data.generate.path={code}", *teacher]),
            ("clean", ["experiment=demo/clean"]),
            ("decontaminate", ["experiment=demo/decontaminate"]),
            ("preprocess", ["experiment=demo/preprocess"]),
            ("preprocess", ["experiment=demo/preprocess_evol"]),
            ("train", ["experiment=demo/train_oss", "track=file", f"model.key={tiny_model}"]),
            ("train", ["experiment=demo/train_evol", "track=file", f"model.key={tiny_model}"]),
        ]:
            finished = run_main(f"stage={stage}", *arguments, cwd=tmp_path)
            assert finished.returncode == 0, (arguments, finished.stderr)

    out = tmp_path / "outputs" / "demo"
    pairs = read_jsonl(out / "preprocess" / "src-instruct" / "rows.jsonl")
    assert len(pairs) == 8
    assert {row["lang"] for row in pairs} == {"python"}
    for name in ("magicoder", "magicoder-s"):
        AutoModelForCausalLM.from_pretrained(out / name)
    first, second = (json.loads((out / name / "manifest.json").read_text()) for name in ("magicoder", "magicoder-s"))
    assert second["inputs"]["model.init"] == json.dumps(first["outputs"], sort_keys=True)
