"""From a command line to settings, and everything that can be wrong on the way, a line a mistake."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from magicoder import config
from magicoder.config import bounds, identity
from magicoder.runtime.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
CONFIG_DIRECTORY = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
"""Inside the package where it is installed from a wheel, beside it in a checkout."""
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError)

Validate = Callable[[config.StageConfig], list[str]]


def register_schemas(schemas: Mapping[str, type[config.StageConfig]]) -> None:
    """Give Hydra the schema of each stage, so that a key that a stage does not have is an error."""
    for name, schema in schemas.items():
        ConfigStore.instance().store(group="schema", name=name, node=schema, package="_global_")


def settings_of(tree: DictConfig) -> config.StageConfig:
    """The composed tree as its stage's dataclass. Errors: UserError naming each key without value or without use."""
    missing = [key for key, value in identity.leaves(OmegaConf.to_container(tree, resolve=False)) if value == MISSING]
    if missing:
        raise UserError([f"{key}: has no value; give it one with {key}=VALUE" for key in missing])
    try:
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
    if not isinstance(settings, config.StageConfig):
        raise UserError(f"stage: choose one of {', '.join(stage_names())}")
    used = {key for key, _ in identity.leaves(dataclasses.asdict(settings))}
    # A leading + lets a key past Hydra's schema that no dataclass has: it would be ignored without a word.
    unknown = [key for key, _ in identity.leaves(OmegaConf.to_container(tree, resolve=False)) if key not in used]
    if unknown:
        raise UserError([f"{key}: this stage has no such key" for key in unknown])
    return settings


def stage_names() -> list[str]:
    """List the stages that can be composed."""
    return [path.stem for path in (CONFIG_DIRECTORY / "stage").glob("*.yaml")]


def is_sweep(arguments: list[str]) -> bool:
    """Whether the command line asks for several jobs, and not only for a look at the config."""
    flags = get_args_parser().parse_args(arguments)
    return bool(flags.multirun) and not (flags.cfg or flags.info or flags.help or flags.shell_completion)


def validate_sweep(arguments: list[str], validate: Validate) -> list[str]:
    """List the mistakes of all jobs of a sweep, before the first one costs anything.

    validate: lists the mistakes of one composed job.
    """
    if any(argument.startswith("out=") for argument in arguments):
        return ["out: a sweep names the directory of each job itself; choose where they lie by root=DIR"]
    try:
        jobs = BasicSweeper.split_arguments(parsed(arguments), max_batch_size=None)[0]
    except COMPOSITION_ERRORS:
        return command_problems(arguments)
    found = []
    for overrides in jobs:
        try:
            found += validate(settings_of(composed(list(overrides))))
        except UserError as error:
            found += error.problems
        except COMPOSITION_ERRORS:
            found += command_problems(list(overrides))
    return list(dict.fromkeys(found))


def command_problems(arguments: list[str]) -> list[str]:
    """Everything that is wrong with a command line that does not compose.

    Each argument is tried with those options that are right; what is left must still be within its bounds.
    """
    overrides = get_args_parser().parse_args(arguments).overrides
    unparsable = [problem for override in overrides if (problem := parse_problem(override)) is not None]
    single = [each for each in parsed(parsable(overrides)) if not each.is_sweep_override()]
    is_option = {str(each.input_line): (CONFIG_DIRECTORY / str(each.key_or_group)).is_dir() for each in single}
    ordered = sorted(is_option, key=lambda line: (not line.startswith("stage="), not is_option[line]))
    found = unparsable
    options: list[str] = []
    values: list[str] = []
    for line in ordered:
        problem = composition_problem([*options, line])
        if problem is not None:
            key = line.lstrip("+~").split("=")[0].split(".")[0]
            found.append(problem if key and key in problem else f"{line}: {problem}")
            if line.startswith("stage="):
                return found  # without a stage nothing else can be judged
        else:
            (options if is_option[line] else values).append(line)
    if (problem := composition_problem(options)) is not None:
        return list(dict.fromkeys([*found, problem]))
    try:
        found += bounds.validate(settings_of(composed([*options, *values])))
    except UserError as error:
        found += error.problems
    return list(dict.fromkeys(found))


def parse_problem(argument: str) -> str | None:
    """What keeps one argument from being read at all."""
    try:
        parsed([argument])
    except COMPOSITION_ERRORS as error:
        return f"{argument}: cannot be read: {one_line(error)}"
    return None


def parsable(arguments: list[str]) -> list[str]:
    """The arguments that can be read."""
    return [argument for argument in arguments if parse_problem(argument) is None]


def parsed(arguments: list[str]) -> list[Override]:
    """The overrides among the arguments; the others are Hydra's own flags."""
    return OverridesParser.create().parse_overrides(get_args_parser().parse_args(arguments).overrides)


def composed(overrides: list[str]) -> DictConfig:
    """The tree that Hydra makes of these overrides."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose("config", overrides=overrides)


def composition_problem(overrides: list[str]) -> str | None:
    """What keeps these overrides from composing; None if nothing does."""
    try:
        composed(overrides)
    except COMPOSITION_ERRORS as error:
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    """The gist of an error of Hydra's or OmegaConf's with the key it is about, without hints for programmers."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return f"{cause.full_key}: this stage has no such key"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        reason = str(cause.msg).splitlines()[0]
        hint = "; write a list as [a,b]" if "ListConfig" in reason else ""
        return f"{cause.full_key}: {reason}{hint}"
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("To append to your config", "See https://"))]
    return f"{kept[0]}; {' '.join(kept[1:])}" if len(kept) > 1 else " ".join(kept) or type(error).__name__
