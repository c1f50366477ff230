"""The config tree: every option and every documented command composes; all mistakes are reported together."""

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from magicoder import config
from magicoder.config import StageConfig, bounds, composition, identity, launch
from magicoder.stages import STAGES
from tests.support import PROJECT, command, environment, run_main, write_jsonl

Settings = Callable[..., StageConfig]
TREE = PROJECT / "conf"
OPTIONS = sorted(
    path.relative_to(TREE).with_suffix("")
    for path in TREE.rglob("*.yaml")
    if path.parent not in (TREE, TREE / "base")  # every option of a group inherits from a base, which is none itself
)


def problems_of(settings: StageConfig) -> list[str]:
    return list(bounds.validate(settings))


# --- the tree --------------------------------------------------------------------------------------------------------


def chosen_by(option: Path) -> list[str]:
    """The overrides that choose an option of a group and give a value to what it leaves open."""
    if option.parts[0] in ("experiment", "stage"):
        return [f"{option.parts[0]}={option.relative_to(option.parts[0])}"]
    if option == Path("prompt/evol_instruct"):
        return ["data/generate=evol_instruct", "prompt=evol_instruct"]  # of no use to snippets
    values = yaml.safe_load((TREE / f"{option}.yaml").read_text())
    missing = [key for key, value in values.items() if value == "???" or "oc.env:" in str(value)]
    given = {key: "https://given/v1" if key == "base_url" else "given" for key in missing}
    group = ".".join(option.parent.parts)
    return [f"{option.parent}={option.name}", *(f"{group}.{key}={value}" for key, value in given.items())]


def stages_with(option: Path) -> list[str]:
    """The stages that an option may be meant for: those whose defaults list has its group."""
    if option.parts[0] == "stage":
        return [option.name]
    if option.parts[0] == "experiment":
        return list(STAGES)
    defaults = {stage: yaml.safe_load((TREE / "stage" / f"{stage}.yaml").read_text())["defaults"] for stage in STAGES}
    return [stage for stage, entries in defaults.items() if any(f"/{option.parent}" in entry for entry in entries)]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_of_every_group_composes_in_a_stage(settings: Settings, option: Path) -> None:
    """A new file of conf/ is tested from its first day."""
    fits, refusals = [], []
    for stage in stages_with(option):
        try:
            composed = settings(f"stage={stage}", *chosen_by(option))
        except (HydraException, OmegaConfBaseException) as error:
            refusals.append(f"{stage}: {error}")
        else:
            fits.append(stage)
            assert isinstance(composed, STAGES[stage].config)
            assert problems_of(composed) == []
    assert fits, refusals


def test_every_stage_has_an_option_and_a_runner() -> None:
    assert sorted(path.stem for path in (TREE / "stage").iterdir()) == sorted(STAGES)
    assert all((PROJECT / "magicoder" / "stages" / f"{stage}.py").exists() for stage in STAGES)


def test_experiments_are_applied(settings: Settings) -> None:
    """An optional group that is not found would be passed over in silence."""
    assert settings("stage=generate", "experiment=demo/generate").data.generate.max_new_data == 10


# --- documented commands ---------------------------------------------------------------------------------------------


def test_documented_generate_command(settings: Settings, tmp_path: Path) -> None:
    chosen = settings(
        "stage=generate",
        "data.generate.seed_code_start_index=0",
        "data.generate.max_new_data=1000",
        "data.generate.data_dir=python",
        "data.generate.tag=python",
    )
    assert isinstance(chosen, config.GenerateConfig)
    code, teacher = chosen.data.generate, chosen.teacher
    assert chosen.out == f"{tmp_path}/outputs/generate/data-python-0+1000"
    assert (code.dataset_name, code.data_dir, code.tag) == ("bigcode/starcoderdata", "python", "python")
    assert (code.seed, code.chunk_size, code.min_lines, code.max_lines) == (976, 1000, 1, 15)
    assert code.max_considered_data == 150_000
    assert (teacher.model, teacher.temperature) == ("gpt-3.5-turbo-1106", 0.0)
    assert (teacher.max_new_tokens, teacher.model_max_tokens) == (2500, 8192)
    assert problems_of(chosen) == []


def test_documented_clean_command(settings: Settings) -> None:
    chosen = settings("stage=clean", "data.clean.data_files=[a.jsonl]")
    assert isinstance(chosen, config.CleanConfig)
    assert chosen.data.clean == config.CleaningConfig(
        data_files=["a.jsonl"], seed=666, no_filter=False, bad_rows="error"
    )


def test_documented_decontaminate_command(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=decontaminate").data.decontaminate
    assert chosen.data_files == [f"{tmp_path}/outputs/clean"]
    assert chosen.columns == ["problem", "solution"]
    assert list(chosen.benchmarks) == ["mbpp", "human_eval", "apps", "gsm8k", "ds_1000"]
    assert not chosen.apps_solutions


@pytest.mark.parametrize("key", ["src-instruct", "evol-instruct", "codealpaca", "combine"])
def test_documented_preprocess_command(settings: Settings, tmp_path: Path, key: str) -> None:
    chosen = settings("stage=preprocess", f"data.preprocess.key={key}")
    assert chosen.out == f"{tmp_path}/outputs/preprocess/{key}"
    assert problems_of(chosen) == []


def test_documented_training_commands(settings: Settings, tmp_path: Path) -> None:
    oss = settings("stage=train", "train=oss", "model=deepseek_coder_6_7b")
    evol = settings("stage=train", "train=evol", "model.init=outputs/magicoder")
    assert oss.model == config.ModelConfig("deepseek-ai/deepseek-coder-6.7b-base", None, "auto")
    assert evol.model == config.ModelConfig("deepseek-ai/deepseek-coder-6.7b-base", "outputs/magicoder", "auto")
    assert (oss.out, evol.out) == (f"{tmp_path}/outputs/magicoder", f"{tmp_path}/outputs/magicoder-s")
    assert (oss.train.max_training_seq_length, evol.train.max_training_seq_length) == (1216, 1024)
    for recipe in (oss.train, evol.train):
        assert (recipe.num_train_epochs, recipe.per_device_train_batch_size) == (2, 2)
        # Documented are 128 micro-batches of 2 on each of two GPUs.
        assert (recipe.gradient_accumulation_steps, recipe.documented_devices) == (128, 2)
        assert (recipe.global_batch_size, recipe.sequences_per_update) == (None, 512)
        assert (recipe.learning_rate, recipe.warmup_steps) == (5e-5, 15)
        assert (recipe.lr_scheduler_type, recipe.optim, recipe.max_grad_norm) == ("linear", "adafactor", -1)
        assert recipe.bf16
    assert problems_of(oss) == problems_of(evol) == []


@pytest.mark.parametrize(
    ("experiment", "key", "init", "data", "tokens"),
    [
        ("magicoder_cl", "codellama/CodeLlama-7b-Python-hf", None, "src-instruct", 1216),
        ("magicoder_s_cl", "codellama/CodeLlama-7b-Python-hf", "magicoder-cl", "evol-instruct", 1024),
        ("magicoder_ds", "deepseek-ai/deepseek-coder-6.7b-base", None, "src-instruct", 1216),
        ("magicoder_s_ds", "deepseek-ai/deepseek-coder-6.7b-base", "magicoder-ds", "evol-instruct", 1024),
    ],
)
def test_documented_models_are_experiments(
    settings: Settings, tmp_path: Path, experiment: str, key: str, init: str | None, data: str, tokens: int
) -> None:
    chosen = settings("stage=train", f"experiment={experiment}")
    outputs, recipe = f"{tmp_path}/outputs", chosen.train
    assert chosen.out == f"{outputs}/{experiment.replace('_', '-')}"
    assert (chosen.model.key, chosen.model.init) == (key, init and f"{outputs}/{init}")
    assert recipe.datafile_paths == [f"{outputs}/preprocess/{data}"]
    assert (recipe.max_training_seq_length, recipe.num_train_epochs, recipe.sequences_per_update) == (tokens, 2, 512)
    assert (recipe.learning_rate, recipe.warmup_steps, recipe.lr_scheduler_type) == (5e-5, 15, "linear")
    assert (recipe.optim, recipe.max_grad_norm, recipe.bf16, recipe.loss) == ("adafactor", -1, True, "micro_mean")
    assert problems_of(chosen) == []


@pytest.mark.parametrize(
    ("overrides", "sequences"),
    [
        ([], 512),
        (["parallel.devices=8", "parallel.num_nodes=4"], 512),
        (["train.global_batch_size=512"], 512),
        (["train.global_batch_size=6"], 6),
        (["train.gradient_accumulation_steps=3"], 12),
        (["train.gradient_accumulation_steps=128", "train.documented_devices=1"], 256),
    ],
)
def test_update_is_the_same_on_any_devices(settings: Settings, overrides: list[str], sequences: int) -> None:
    """Its number of sequences alone bears identity, however it is spelt."""
    recipe = identity.select_identity(settings("stage=train", *overrides).resolve())["train"]
    assert recipe["global_batch_size"] == sequences
    assert not recipe.keys() & {"gradient_accumulation_steps", "documented_devices"}


def test_documented_sweep_says_once_what_all_its_jobs_lack(tmp_path: Path) -> None:
    result = run_main("-m", "stage=train", "train.learning_rate=1e-5,2e-5,5e-5", cwd=tmp_path)
    assert result.returncode == 1
    missing = "outputs/preprocess/src-instruct: no such file; run stage=preprocess first"
    assert result.stderr.splitlines() == [f"error: {missing}"]


# --- answers without work --------------------------------------------------------------------------------------------

HEAVY = {"torch", "transformers", "openai", "wandb", "datasets", "lightning", "numpy", "tokenizers", "tiktoken"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--help"], "teacher: azure, deepseek, gemma, local, mistral, openai, openai_reasoning, openrouter, vllm"),
        (["stage=train", "--cfg", "job"], "learning_rate: 5.0e-05"),
        (["stage=train", "--cfg", "job", "train.learning_rate=7e-05"], "learning_rate: 7.0e-05"),
        (["stage=generate", "--info", "defaults-tree"], "data/generate: starcoderdata"),
        (["stage=clean"], ""),  # a mistake: there are no rows to clean
    ],
    ids=["help", "config", "flag between overrides", "defaults tree", "mistake"],
)
def test_quick_answers_are_quick_and_import_nothing_heavy(tmp_path: Path, arguments: list[str], part: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python, *rest = command(*arguments)
    result = subprocess.run(
        [python, "-X", "importtime", *rest],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {
        line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    assert "hydra" in imported
    assert not imported & HEAVY
    assert part in result.stdout
    # Seconds of this program alone, whatever else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_help_names_every_stage_and_every_group(tmp_path: Path) -> None:
    shown = run_main("--help", cwd=tmp_path).stdout
    assert all(f"stage={stage} " in shown for stage in STAGES)
    groups = {str(option.parent) for option in OPTIONS}
    chosen_by_option = {"stage", "experiment/demo"}  # one chooses stage=clean from a list, and experiment=demo/clean
    assert {group for group in groups if f"\n{group}: " in shown} == groups - chosen_by_option
    assert "\nexperiment: demo/clean, " in shown
    assert "base" not in [line.split(":")[0] for line in shown.splitlines()]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("stage=tr", {"stage=train"}),
        ("stage=train train=", {"train=evol", "train=oss"}),
        ("stage=train train.lea", {"train.learning_rate="}),
        ("stage=decontaminate data/decontaminate=h", {"data/decontaminate=human_eval"}),
    ],
)
def test_shell_completes_groups_options_and_keys(tmp_path: Path, typed: str, completed: set[str]) -> None:
    result = run_main("-sc", "query=bash", cwd=tmp_path, COMP_LINE=f"python main.py {typed}", COMP_POINT="99")
    assert (result.returncode, result.stderr) == (0, "")
    assert set(result.stdout.split()) == completed


# --- mistakes --------------------------------------------------------------------------------------------------------


def complaints(cwd: Path, *arguments: str) -> list[str]:
    """The lines with which the program refuses a command."""
    result = run_main(*arguments, cwd=cwd)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), result.stderr
    return [line.removeprefix("error: ") for line in lines]


def test_missing_stage_is_one_line_that_names_them_all(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path)
    assert all(name in line for name in ("stage", *STAGES))


def test_misspelt_stage_is_one_line_that_names_them_all(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, "stage=trian")
    assert all(name in line for name in ("trian", *STAGES))


def test_stage_that_is_taken_away_is_one_line(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, "~stage")
    assert "stage" in line


def test_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """It would reach manifests and logs."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("a = 1\n")
    local = ("data/generate=local", f"data.generate.path={tmp_path}/code", "teacher=openai")
    lines = complaints(tmp_path, "stage=generate", *local, "teacher.base_url='https://user:secret@host/v1'")
    (line,) = (line for line in lines if line.startswith("teacher.base_url: "))
    assert "teacher.api_key_env" in line
    assert "secret" not in "".join(lines)


@pytest.mark.parametrize("package", ["nowhere.deeper", ".relative", "os.path", ""])
def test_model_of_a_package_that_cannot_be_is_one_line(tmp_path: Path, package: str) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "a", "response": "b"}])
    name = f"package:{package}/model.gguf"
    files = (f"train.datafile_paths=[{data}]", f"model.key='{name}'")
    (line,) = complaints(tmp_path, "stage=train", *files)
    assert f"{name}: no such file" in line


# A wrong override -> what the line about it must hold.
KEYS = {"train.learnin_rate=1": "train.learnin_rate", "modle.key=a": "modle", "overwrit=true": "overwrit"}
TYPES = {
    "train.warmup_steps=abc": "train.warmup_steps",
    "train.bf16=perhaps": "train.bf16",
    "train.max_grad_norm=[1]": "train.max_grad_norm",
}
OPTIONS_THAT_ARE_NOT_THERE = {"train=osss": "osss", "model=gpt": "gpt", "track=mlflow": "mlflow"}
BOUNDS = {
    "train.learning_rate=-1": "train.learning_rate",
    "train.logging_steps=0": "train.logging_steps",
    "parallel.accelerator=tpu": "parallel.accelerator",
}


@pytest.mark.parametrize(
    "mistakes",
    [KEYS, TYPES, OPTIONS_THAT_ARE_NOT_THERE, BOUNDS, KEYS | TYPES | OPTIONS_THAT_ARE_NOT_THERE, KEYS | TYPES | BOUNDS],
    ids=["keys", "types", "options", "bounds", "keys, types, options", "keys, types, bounds"],
)
def test_all_mistakes_are_told_at_once_each_in_its_own_line(tmp_path: Path, mistakes: dict[str, str]) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "a", "response": "b"}])
    lines = complaints(tmp_path, "stage=train", f"train.datafile_paths=[{data}]", *mistakes)
    for mistake, phrase in mistakes.items():
        assert sum(phrase in line.split(": ")[0].replace("=", "/") for line in lines) == 1, f"{mistake}: {lines}"
    assert len(lines) == len(mistakes)


def test_message_about_a_key_speaks_of_the_stage_not_of_a_class(tmp_path: Path) -> None:
    assert complaints(tmp_path, "stage=clean", "sead=1", "data.clean.sead=1", "dota.clean.seed=1") == [
        "sead: this stage has no such key",
        "data.clean.sead: this stage has no such key; did you mean data.clean.seed?",
        "dota: this stage has no such key; did you mean data?",
    ]


def test_every_key_without_a_value_is_named_at_once(tmp_path: Path) -> None:
    lines = complaints(tmp_path, "stage=generate", "data/generate=dataset", "teacher=vllm")
    assert sorted(lines) == [
        "data.generate.dataset_name: has no value; give it one with data.generate.dataset_name=VALUE",
        "teacher.model: has no value; give it one with teacher.model=VALUE",
    ]


def test_misspelt_experiment_is_refused(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, "stage=generate", "experiment=demo/genrate")
    assert "demo/genrate" in line


@pytest.mark.parametrize(
    ("stage", "experiment", "right"),
    [
        ("clean", "demo/train_oss", "train"),
        ("train", "demo/generate", "generate"),
        ("generate", "magicoder_s_ds", "train"),
        ("clean", "demo/preprocess_evol", "preprocess"),
        ("generate", "demo/clean", "clean"),
    ],
)
def test_experiment_of_another_stage_names_it(tmp_path: Path, stage: str, experiment: str, right: str) -> None:
    assert complaints(tmp_path, f"stage={stage}", f"experiment={experiment}") == [
        f"experiment={experiment}: this experiment is for stage={right}"
    ]


def write_experiment(folder: Path, text: str) -> str:
    """Write the experiment `mine` into a folder of a user's own; return the flag that names the folder."""
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    return f"--config-dir={folder}"


@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["job", "sweep"])
def test_old_key_is_an_error_that_names_the_new_one(tmp_path: Path, sweep: list[str]) -> None:
    stages = {key: "train" if key.startswith("parallel") else "generate" for key in identity.RENAMED_KEYS}
    for stage in ("generate", "train"):
        keys = [key for key, owner in stages.items() if owner == stage]
        lines = complaints(tmp_path, *sweep, f"stage={stage}", *(f"{key}=1" for key in keys))
        assert lines == [f"{key}: is now {identity.RENAMED_KEYS[key]}" for key in keys]


@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["job", "sweep"])
def test_old_key_in_a_file_names_the_new_one(tmp_path: Path, sweep: list[str]) -> None:
    folder = write_experiment(tmp_path / "it's [mine]", "teacher:\n  give_up: true\n")
    lines = complaints(tmp_path, folder, *sweep, "stage=generate", "experiment=mine")
    assert lines == ["experiment=mine: teacher.give_up: is now teacher.reject_failed_rows"]


def test_folder_of_own_options_is_known_to_explanations(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "mine", "data:\n  clean:\n    seed: 7\n")
    lines = complaints(tmp_path, folder, "stage=clean", "experiment=mine", "data.clean.sead=1")
    assert lines == ["data.clean.sead: this stage has no such key; did you mean data.clean.seed?"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["stage=generate", "data.generate.path=x"],
            "only options of data/generate with source=local or source=rows have this key",
        ),
        (
            ["stage=generate", "data/generate=local", "data.generate.source=hub", "teacher=local"],
            "follows from the option",
        ),
        (["stage=generate", "data/generate=local", "teacher=local", "out="], "out: is empty"),
        (
            ["stage=generate", "data/generate=local", "teacher=local", "data.generate.data_dir=fortran"],
            "data.generate.data_dir=fortran: choose one of python",
        ),
        (["stage=train", "train=null"], "train=null: name an option of the group"),
        (["stage=train", "parallel=ddp,fsdp"], "parallel=ddp,fsdp: has several values; add -m"),
        (["experiment=magicoder_ds"], "this experiment is for stage=train; add that to the command"),
        (["stage=clean", "data.clean.seed=null"], "data.clean.seed: must have a value"),
        (["stage=train", "train=osss"], "train/osss: no such option; choose one of evol, oss"),
        (["stage=decontaminate", "data.decontaminate.benchmarks.apsp.path=x"], "benchmarks.apps?"),
        (["stage=decontaminate", "data.decontaminate.benchmarks.x.path=x"], "benchmarks has mbpp, human_eval, apps"),
    ],
)
def test_key_that_is_elsewhere_is_found(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (line,) = complaints(tmp_path, *arguments)
    assert expected in line


def test_identity_of_a_former_run_has_todays_keys() -> None:
    """What manifest.json and started.json of runs before the renaming hold."""
    read = {"source": "local", "seed": 1}
    config = {"data": {"generate": {**read, "licences": None, "evolve": None}}, "teacher": {"serve": "a"}}
    former = {"stage": "generate", "config": config}
    now = {"data": {"generate": {**read, "licenses": None}}, "teacher": {"serve_model": "a"}}
    assert identity.translate_identity(former) == {"stage": "generate", "config": now}
    assert former["config"]["teacher"] == {"serve": "a"}  # left as it was
    assert identity.translate_identity({"stage": "generate", "config": now})["config"] == now


def test_every_new_key_exists(settings: Settings) -> None:
    for key in identity.RENAMED_KEYS.values():
        stage = ["stage=train"] if key.startswith("parallel") else ["stage=generate", "data/generate=local"]
        node = settings(*stage)
        for name in key.split("."):
            node = getattr(node, name)


@pytest.mark.parametrize("override", ["+data.clean.sead=1", "++sead=1"])
def test_key_that_the_stage_does_not_have_cannot_be_added(tmp_path: Path, override: str) -> None:
    """It would do nothing, and whoever typed it would believe that it did."""
    data = write_jsonl(tmp_path / "data-python-0.jsonl", [{"seed": "a", "problem": "b", "solution": "c"}])
    (line,) = complaints(tmp_path, "stage=clean", f"data.clean.data_files=[{data}]", override)
    assert "sead" in line


@pytest.mark.parametrize(
    "override",
    ["=3", "data.clean.data_files=[a", "data.clean.seed=${nowhere}", "~data.clean.seed", "data.clean.seed=null"],
)
def test_override_that_makes_no_sense_is_one_line(tmp_path: Path, override: str) -> None:
    (line,) = complaints(tmp_path, "stage=clean", override)
    assert override.strip("~=").split("=")[0] in line or override in line


def test_list_that_was_meant_is_explained(tmp_path: Path) -> None:
    problems = complaints(tmp_path, "stage=decontaminate", "data.decontaminate.columns=problem")
    assert problems[0].startswith("data.decontaminate.columns: ")
    assert "[" in problems[0]  # the form of a list on the command line


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("stage=clean", "data.clean.data_files"),
        ("stage=decontaminate", "data.decontaminate.data_files"),
        ("stage=preprocess", "data.preprocess.data_files"),
        ("stage=generate data/generate=evol_instruct dry_run=true", "data.generate.evolve.instruction_files"),
        ("stage=train model.key=nowhere", "train.datafile_paths"),
    ],
)
def test_one_file_needs_no_brackets(settings: Settings, tmp_path: Path, stage: str, key: str) -> None:
    assert f"{tmp_path}/none.jsonl: no such file" in "\n".join(
        complaints(tmp_path, *stage.split(), f"{key}={tmp_path}/none.jsonl")
    )
    for wrong in ("5", "[a,5]"):
        (problem,) = problems_of(settings(*stage.split(), f"{key}={wrong}"))
        assert problem.startswith(f"{key}=") and problem.endswith("name one file or directory, or several as [a,b]")


@pytest.mark.parametrize("columns", ["5", "[a]", "{instruction: [a]}"])
def test_columns_that_map_no_names_are_refused(tmp_path: Path, columns: str) -> None:
    problems = complaints(tmp_path, "stage=preprocess", f"data.preprocess.columns={columns}")
    assert problems[0].startswith("data.preprocess.columns=")


@pytest.mark.parametrize(
    ("stage", "former"),
    [
        ("clean", {"clean": {"seed": 666, "no_filter": False}}),
        ("preprocess", {"preprocess": {"key": "src-instruct"}}),
    ],
)
def test_keys_that_came_later_do_not_change_identities(settings: Settings, stage: str, former: dict) -> None:
    """Directories that were made before are still complete."""
    assert identity.select_identity(settings(f"stage={stage}"))["data"] == former
    rejecting = identity.select_identity(settings(f"stage={stage}", f"data.{stage}.bad_rows=reject"))["data"]
    assert rejecting == {stage: {**former[stage], "bad_rows": "reject"}}


@pytest.mark.parametrize("values", ["src-instruct,nonsense", "src-instruct,{a:b}"])
def test_mistake_in_a_sweep_is_told_before_its_first_job_starts(tmp_path: Path, values: str) -> None:
    """A job of a sweep may take days and money."""
    data = write_jsonl(tmp_path / "rows.jsonl", [{"problem": "a", "solution": "b"}])
    sweep = ("-m", "stage=preprocess", f"data.preprocess.key={values}", f"data.preprocess.data_files=[{data}]")
    (line,) = complaints(tmp_path, *sweep)
    assert "data.preprocess.key" in line
    assert not list(tmp_path.rglob("rows.jsonl"))[1:]


@pytest.mark.parametrize(
    ("stage", "override", "key"),
    [
        ("generate", "data.generate.source=ftp", "data.generate.source"),
        ("generate", "data.generate.seed_code_start_index=-1", "data.generate.seed_code_start_index"),
        ("generate", "data.generate.seed=-1", "data.generate.seed"),
        ("generate", "data.generate.chunk_size=0", "data.generate.chunk_size"),
        ("generate", "data.generate.max_new_data=0", "data.generate.max_new_data"),
        ("generate", "data.generate.min_lines=0", "data.generate.min_lines"),
        ("generate", "data.generate.min_lines=16", "data.generate.max_lines"),
        ("generate", "data.generate.max_considered_data=0", "data.generate.max_considered_data"),
        ("generate", "data.generate.tag=c-sharp", "data.generate.tag"),
        ("generate", "data.generate.tag=a/b", "data.generate.tag"),
        ("generate", "data.generate.tag=''", "data.generate.tag"),
        ("generate", "data.generate.dataset_name=''", "data.generate.dataset_name"),
        ("generate", "teacher.temperature=-0.1", "teacher.temperature"),
        ("generate", "teacher.temperature=nan", "teacher.temperature"),
        ("generate", "teacher.max_new_tokens=0", "teacher.max_new_tokens"),
        ("generate", "teacher.model_max_tokens=0", "teacher.model_max_tokens"),
        ("generate", "teacher.concurrency=0", "teacher.concurrency"),
        ("generate", "teacher.max_attempts=0", "teacher.max_attempts"),
        ("generate", "teacher.timeout=0", "teacher.timeout"),
        ("generate", "teacher.base_url=localhost:8000", "teacher.base_url"),
        ("generate", "teacher.base_url='https:///v1'", "teacher.base_url"),
        ("generate", "teacher.base_url='https://user:secret@host/v1'", "teacher.base_url"),
        ("generate", "prompt.user='No code.'", "prompt.user"),
        ("preprocess", "prompt.instruction='No problem.'", "prompt.instruction"),
        ("train", "train.max_training_seq_length=1", "train.max_training_seq_length"),
        ("train", "train.num_train_epochs=0", "train.num_train_epochs"),
        ("train", "train.per_device_train_batch_size=0", "train.per_device_train_batch_size"),
        ("train", "train.global_batch_size=0", "train.global_batch_size"),
        ("train", "train.global_batch_size=5", "train.global_batch_size"),
        ("train", "train.gradient_accumulation_steps=0", "train.gradient_accumulation_steps"),
        ("train", "train.loss=sum", "train.loss"),
        ("train", "train.rounding=up", "train.rounding"),
        ("train", "train.layout=binned", "train.layout"),
        ("train", "train.tokens_per_device=1215", "train.tokens_per_device"),
        ("train", "train.logits=some", "train.logits"),
        ("train", "train.save_every_minutes=0", "train.save_every_minutes"),
        ("train", "train.keep_checkpoints=0", "train.keep_checkpoints"),
        ("train", "train.learning_rate=0", "train.learning_rate"),
        ("train", "train.learning_rate=nan", "train.learning_rate"),
        ("train", "train.lr_scheduler_type=step", "train.lr_scheduler_type"),
        ("train", "train.warmup_steps=-1", "train.warmup_steps"),
        ("train", "train.seed=-1", "train.seed"),
        ("train", "train.save_every=0", "train.save_every"),
        ("train", "model.attention=fast", "model.attention"),
        ("train", "parallel.accelerator=tpu", "parallel.accelerator"),
        ("train", "parallel.strategy=deepspeed", "parallel.strategy"),
        ("train", "parallel.devices=0", "parallel.devices"),
        ("train", "parallel.devices=two", "parallel.devices"),
        ("train", "parallel.num_nodes=0", "parallel.num_nodes"),
        ("train", "parallel.activation_checkpointing=some", "parallel.activation_checkpointing"),
        ("train", "parallel.reduce_gradients=never", "parallel.reduce_gradients"),
        ("train", "track.samples=-1", "track.samples"),
        ("train", "track.sample_tokens=0", "track.sample_tokens"),
        ("train", "prompt.template='{response}'", "prompt.template"),
        ("train", "prompt.template='{instruction} {response} end'", "prompt.template"),
    ],
)
def test_value_out_of_its_bounds_is_told_by_its_key(settings: Settings, stage: str, override: str, key: str) -> None:
    (problem,) = problems_of(settings(f"stage={stage}", override))
    assert problem.startswith((f"{key}=", f"{key}: "))
    assert "\n" not in problem


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.layout=padded", "train.tokens_per_device=1"],
        ["train.gradient_accumulation_steps=3", "train.global_batch_size=6"],
    ],
    ids=["bins of padded micro-batches", "batch size beside accumulation"],
)
def test_a_bound_of_what_does_not_apply_is_not_told(settings: Settings, overrides: list[str]) -> None:
    assert problems_of(settings("stage=train", *overrides)) == []


def test_home_is_expanded_wherever_a_shell_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/o'brien")
    arguments = [
        "out=~/a",
        "data_files=[~/a.jsonl,b,~]",
        "x=a~b",
        "~data.key=~/a",
        "-m",
        "y='~/a'",
        "z=1,~2",
        "w=a=~/b",
    ]
    assert launch.quote_home(arguments) == [
        "out='/home/o\\'brien/a'",
        "data_files=['/home/o\\'brien/a.jsonl',b,'/home/o\\'brien']",
        "x=a~b",
        "~data.key='/home/o\\'brien/a'",
        "-m",
        "y='~/a'",
        "z=1,~2",
        "w=a=~/b",
    ]


def test_home_is_expanded_in_values_but_not_in_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    def compose(*overrides: str) -> Any:
        return composition.to_config(composition.compose_config(list(overrides)))

    chosen = compose("stage=clean", "out='~/made'", "data.clean.data_files=['~/a.jsonl']")
    assert (chosen.out, chosen.data.clean.data_files) == ("/home/me/made", ["/home/me/a.jsonl"])
    assert compose("stage=clean", "data.clean.data_files='~/a.jsonl'").data.clean.data_files == "/home/me/a.jsonl"
    assert compose("stage=generate", "prompt.user='~/{code}'").prompt.user == "~/{code}"


def test_open_dictionaries_take_new_keys_without_a_plus() -> None:
    arguments = [
        "teacher.request.extra_body.reasoning.effort=low",
        "'teacher.prices={m: {input: 1, output: 2}}'",
        "a=b",
    ]
    arguments[1] = "teacher.prices={m: {input: 1, output: 2}}"
    forced = launch.force_new_keys(arguments)
    assert forced == [f"++{arguments[0]}", f"++{arguments[1]}", "a=b"]
    tree = composition.compose_config(["stage=generate", "teacher.model=m", *forced[:2]])
    chosen: Any = composition.to_config(tree)
    assert chosen.teacher.request.extra_body == {"reasoning": {"effort": "low"}}
    assert chosen.teacher.known_price == (1.0, 2.0)


def test_azure_has_neither_model_nor_address_by_default(tmp_path: Path) -> None:
    lines = complaints(tmp_path, "stage=generate", "data/generate=local", "teacher=azure")
    assert [line.split(":")[0] for line in lines] == ["teacher.model"]
    (line,) = complaints(tmp_path, "stage=generate", "data/generate=local", "teacher=azure", "teacher.model=mine")
    assert "AZURE_OPENAI_ENDPOINT" in line


def test_broken_yaml_of_ones_own_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "prompt").mkdir()
    (tmp_path / "prompt" / "mine.yaml").write_text("system: a\nuser: [\n")
    lines = complaints(tmp_path, "stage=generate", "prompt=mine", "--config-dir", str(tmp_path))
    assert any("mine.yaml" in line for line in lines)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.generate.path=''", "is empty"),
        ("teacher.request.omit=[sead]", "choose from n, seed"),
        ("teacher.api_key_env=sk-proj-AAAABBBB", "must be the name of an environment variable"),
    ],
)
def test_what_is_never_meant_is_an_error(tmp_path: Path, override: str, words: str) -> None:
    lines = complaints(tmp_path, "stage=generate", "data/generate=local", override)
    (line,) = (line for line in lines if words in line)
    assert "sk-proj" not in line
