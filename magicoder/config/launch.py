"""Run one job or a sweep through Hydra, and describe the command line."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from magicoder import config
from magicoder.config import identity
from magicoder.config.composition import (
    COMPOSITION_ERRORS,
    CONFIG_DIRECTORY,
    compose_config,
    explain_command,
    find_search_path,
    parse_overrides,
    to_config,
)
from magicoder.runtime.errors import UserError

MAX_JOB_NAME = 120
"""Bytes; file systems allow 255, and other names are appended to it."""
OPEN = re.compile(r"(teacher\.(request\.extra_(body|headers)|prices)|data\.preprocess\.columns|prompt\.operations)[.=]")
"""A key of a dictionary to which users add what they need."""
AT_HOME = re.compile(r"(?:^|(?<=[\[,]))~(?:/[^\[\]{},'\"]*)?(?=$|[\],])")
"""A path below the home folder, as a whole value or as an item of a list."""
HIDDEN_GROUPS = ("base", "stage")
"""Groups whose options are not chosen on the command line, or are listed apart."""


class NotComposed(Exception):
    """The command line does not compose. cause: Hydra's or OmegaConf's error."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


def quote_home(arguments: list[str]) -> list[str]:
    """Return the arguments with each path that begins with ~ as a quoted path of the home folder.

    A shell expands ~ only at the beginning of a word, and Hydra's grammar has no such character.
    """
    quoted = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        is_plain = not key.startswith(("-", "prompt")) and "'" not in value and '"' not in value
        if separator and is_plain:
            value = AT_HOME.sub(lambda found: quote_text(str(Path(found[0]).expanduser())), value)
        quoted.append(f"{key}{separator}{value}")
    return quoted


def force_new_keys(arguments: list[str]) -> list[str]:
    """Return the arguments so that a key which its user names may be added where the config has an open dictionary.

    Hydra wants a + before a key that is new there, which only the words of its own errors would say.
    """
    return [f"++{argument}" if OPEN.match(argument) else argument for argument in arguments]


def quote_text(text: str) -> str:
    """Return a text as Hydra's grammar quotes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def join_overrides(arguments: list[str]) -> list[str]:
    """Return the arguments with all overrides in one place: Hydra's parser rejects a flag between two of them."""
    known, apart = get_args_parser().parse_known_args(arguments)
    if not apart or not known.overrides or any(argument.startswith("-") for argument in apart):
        return arguments
    kept = [argument for argument in arguments if argument not in apart]
    position = kept.index(known.overrides[-1]) + 1
    return [*kept[:position], *apart, *kept[position:]]


def run_jobs(run: Callable[[config.StageConfig, str | None], int]) -> int:
    """Compose the command line and call `run` for its job, or for each job of a sweep; return the highest status.

    run: takes the config and the name of the job, which is None outside a sweep.
    Errors: NotComposed; whatever `run` raises.
    """
    statuses: list[int] = []
    mistakes: list[UserError] = []
    is_composed = False

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name="config")
    def run_job(tree: DictConfig) -> None:
        nonlocal is_composed
        is_composed = True
        try:
            settings = to_config(tree)
        except UserError as error:
            mistakes.append(error)  # raised below: Hydra would print a headline of its own
            return
        job = None
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            job = name_job(settings)
            settings.out = str(Path(settings.root) / "sweeps" / Path(settings.out).name / job)
        statuses.append(run(settings, job))

    try:
        run_job()
    except COMPOSITION_ERRORS as error:
        if is_composed:
            raise
        raise NotComposed(error) from error
    if mistakes:
        raise NotComposed(mistakes[0])
    return max(statuses, default=0)


def name_job(settings: config.StageConfig) -> str:
    """Name the directory of one job of a sweep, so that a repeated sweep finds finished jobs.

    The name has the overrides that distinguish results, sorted: their order on the command line does not matter.
    """
    overrides = {override.split("=")[0].lstrip("+"): override for override in HydraConfig.get().overrides.task}
    distinguishing = [
        override for key, override in overrides.items() if key != "stage" and identity.is_distinguishing(settings, key)
    ]
    name = ",".join(sorted(distinguishing)).replace("/", "_") or "all-defaults"
    if len(name.encode()) <= MAX_JOB_NAME:
        return name
    shortened = name.encode()[:MAX_JOB_NAME].decode(errors="ignore")
    return f"{shortened}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def validate_sweep(arguments: list[str], validate: Callable[[config.StageConfig], list[str]]) -> list[str]:
    """List the mistakes of all jobs of a sweep, before the first one costs anything.

    validate: lists the mistakes of one composed job.
    """
    if any(argument.startswith("out=") for argument in arguments):
        return ["out: a sweep names the directory of each job itself; choose their parent with root=DIR"]
    try:
        parsed = [*parse_overrides(find_search_path(arguments)), *parse_overrides(arguments)]
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except COMPOSITION_ERRORS:
        return explain_command(arguments)
    problems = []
    for overrides in jobs:
        try:
            problems += validate(to_config(compose_config(list(overrides))))
        except UserError as error:
            problems += error.problems
        except COMPOSITION_ERRORS:
            problems += explain_command(list(overrides))
    return list(dict.fromkeys(problems))


def format_help(stages: Mapping[str, str]) -> str:
    """Return the help: stages with their summaries, the groups that can be chosen, and examples."""
    width = max(map(len, stages)) + 6
    commands = "\n".join(f"  magicoder {f'stage={name}':<{width}}  {summary}" for name, summary in stages.items())
    groups = "\n".join(f"{group}: {', '.join(options)}" for group, options in list_groups())
    return f"""Magicoder's recipe as a config-driven experiment framework.

{commands}

In a checkout, `python main.py` is the same program. Append KEY=VALUE to change a key, GROUP=OPTION to choose another
option of a group:

{groups}

Print every key that a stage would run with:    magicoder stage=train --cfg job
Run a sweep, one job for each value:            magicoder -m stage=train train.learning_rate=1e-5,2e-5
Complete groups, options and keys in bash:      eval "$(magicoder --shell-completion install=bash)"
"""


def list_groups() -> Iterator[tuple[str, list[str]]]:
    """Yield each group that can be chosen, with its options; those in subfolders of a group are options of it."""
    groups: list[Path] = []
    for folder in sorted(path for path in CONFIG_DIRECTORY.rglob("*") if path.is_dir()):
        group = folder.relative_to(CONFIG_DIRECTORY)
        # experiment/demo is no group: one chooses experiment=demo/clean.
        if group.parts[0] in HIDDEN_GROUPS or not any(folder.glob("*.yaml")) or set(group.parents) & set(groups):
            continue
        groups.append(group)
        options = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
        yield group.as_posix(), sorted(option.as_posix() for option in options)
