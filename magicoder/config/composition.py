"""Compose a command line into a config, and explain every mistake in it, one line each."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from magicoder import config
from magicoder.config import bounds, identity
from magicoder.runtime.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
CONFIG_DIRECTORY = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
"""Inside the package where it is installed from a wheel, beside it in a checkout."""
AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'")
"""Hydra's error for the values of a sweep without its flag."""
OmegaConf.register_new_resolver(
    "join",
    lambda value: "_".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value,
)
"""`${join:${.data_dir}}`: one word for one value or for a list."""
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


def register_node(group: str, name: str, node: Any, package: str | None = None) -> None:
    """Add an option to a group that is made in code: a schema, so that an unknown key is an error, or values."""
    ConfigStore.instance().store(group=group, name=name, node=node, package=package)


def to_config(tree: DictConfig) -> config.StageConfig:
    """Convert the composed tree to its stage's dataclass. Errors: UserError naming each key without value or use."""
    missing = [
        key for key, value in identity.list_leaves(OmegaConf.to_container(tree, resolve=False)) if value == MISSING
    ]
    if missing:
        raise UserError([f"{key}: has no value; give it one with {key}=VALUE" for key in missing])
    try:
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UserError(summarize_error(error)) from error
    if not isinstance(settings, config.StageConfig):
        raise UserError(f"stage: choose one of {', '.join(list_stages())}")
    used = {key for key, _ in identity.list_leaves(dataclasses.asdict(settings))}
    # A leading + bypasses Hydra's schema: such a key would be ignored in silence.
    unknown = [key for key, _ in identity.list_leaves(OmegaConf.to_container(tree, resolve=False)) if key not in used]
    if unknown:
        raise UserError([describe_unknown_key(key) for key in unknown])
    expand_home(settings)
    return settings


def expand_home(node: Any) -> None:
    """Replace ~ at the beginning of every text of a config, but for those that a model reads, by the home folder.

    A folder named ~ in the working directory is what nobody means.
    """
    if dataclasses.is_dataclass(node):
        entries: Any = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    else:
        entries = node if isinstance(node, dict) else dict(enumerate(node))
    for name, value in entries.items():
        if isinstance(value, str) and (value == "~" or value.startswith("~/")):
            expanded = str(Path(value).expanduser())
            if dataclasses.is_dataclass(node):
                setattr(node, name, expanded)
            else:
                node[name] = expanded
        elif name != "prompt" and (dataclasses.is_dataclass(value) or isinstance(value, dict | list)):
            expand_home(value)


def list_stages() -> list[str]:
    """List the stages that can be composed."""
    return sorted(path.stem for path in (CONFIG_DIRECTORY / "stage").glob("*.yaml"))


def is_sweep(arguments: list[str]) -> bool:
    """Return whether the command line runs several jobs, and does not only print the config."""
    flags = get_args_parser().parse_args(arguments)
    return bool(flags.multirun) and not (flags.cfg or flags.info or flags.help or flags.shell_completion)


def explain_command(arguments: list[str]) -> list[str]:
    """List the mistakes of a command line that does not compose.

    Each argument is tried with the valid options; the valid arguments together are then checked against their bounds.
    """
    overrides = [*find_search_path(arguments), *get_args_parser().parse_args(arguments).overrides]
    unparsable = [problem for override in overrides if (problem := explain_argument(override)) is not None]
    single = [
        each
        for each in parse_overrides([each for each in overrides if explain_argument(each) is None])
        if not each.is_sweep_override()
    ]
    is_option = {
        str(each.input_line): (CONFIG_DIRECTORY / str(each.key_or_group)).is_dir() or is_hydra_override(each.input_line)
        for each in single
    }
    # The stage first, which decides what the others mean; then Hydra's own, which say where options are found.
    ordered = sorted(
        is_option, key=lambda line: (not line.startswith("stage="), not is_hydra_override(line), not is_option[line])
    )
    problems = unparsable
    options: list[str] = []
    values: list[str] = []
    for line in ordered:
        problem = explain_composition([*options, line])
        if problem is not None:
            key = line.lstrip("+~").split("=")[0].split(".")[0]
            if line.startswith("experiment=") and (other := find_experiment_stage(line, ordered)) is not None:
                problem = f"{line}: this experiment is for stage={other}"
                if not any(argument.startswith("stage=") for argument in ordered):
                    return [*problems, f"{problem}; add that to the command"]
            problems.append(problem if key and key in problem else f"{line}: {problem}")
            if line.startswith("stage="):
                return problems  # without a stage no other argument can be judged
        else:
            (options if is_option[line] else values).append(line)
    if (problem := explain_composition(options)) is not None:
        return list(dict.fromkeys([*problems, problem]))
    try:
        problems += bounds.validate(to_config(compose_config([*options, *values])))
    except UserError as error:
        problems += error.problems
    return list(dict.fromkeys(problems))


def explain_argument(argument: str) -> str | None:
    """Return the mistake in an argument that Hydra's grammar cannot read; None for a readable one."""
    try:
        parse_overrides([argument])
    except COMPOSITION_ERRORS as error:
        quoted = "; quote a text with special characters twice: \"KEY='...'\"" if "=" in argument else ""
        return f"{argument}: cannot be read: {summarize_error(error)}{quoted}"
    return None


def parse_overrides(arguments: list[str]) -> list[Override]:
    """Parse the overrides among the arguments; the others are Hydra's own flags."""
    return OverridesParser.create().parse_overrides(get_args_parser().parse_args(arguments).overrides)


def compose_config(overrides: list[str]) -> DictConfig:
    """Compose the config tree of these overrides."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose("config", overrides=overrides)


def find_search_path(arguments: list[str]) -> list[str]:
    """Return the flag --config-dir, a user's own folder of options, as the override of the same effect, if given."""
    folder = get_args_parser().parse_args(arguments).config_dir
    if folder is None:
        return []
    # Absolute, and quoted because a path may hold characters of Hydra's grammar.
    path = str(Path(folder).resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{path}']"]


def explain_composition(overrides: list[str]) -> str | None:
    """Return the mistake that keeps these overrides from composing; None if they compose."""
    try:
        compose_config(overrides)
    except COMPOSITION_ERRORS as error:
        return summarize_error(error)
    return None


def find_experiment_stage(experiment: str, arguments: list[str]) -> str | None:
    """Return the stage that an experiment composes with, if it is not the one among `arguments`; else None."""
    search = [argument for argument in arguments if is_hydra_override(argument)]
    others = [name for name in list_stages() if f"stage={name}" not in arguments]
    return next((name for name in others if explain_composition([*search, f"stage={name}", experiment]) is None), None)


def is_hydra_override(argument: str | None) -> bool:
    """Return whether an override sets a key of Hydra itself, such as the search path."""
    return (argument or "").lstrip("+~").startswith("hydra.")


def describe_unknown_key(key: str, siblings: Iterable[str] = ()) -> str:
    """Return the error for a key that the stage does not have, with the key that was probably meant.

    siblings: the keys that the parent has.
    """
    if (renamed := identity.RENAMED_KEYS.get(key)) is not None:
        return f"{key}: is now {renamed}"
    parent, _, name = key.rpartition(".")
    if parent == "data.generate":
        options = [source for source, kind in config.SOURCES.items() if name in kind.__dataclass_fields__]
        if options:
            return f"{key}: only options of data/generate with source={' or source='.join(options)} have this key"
    known = list(siblings)
    if close := difflib.get_close_matches(name, known, n=1):
        return f"{key}: this stage has no such key; did you mean {f'{parent}.' if parent else ''}{close[0]}?"
    choices = f"; {parent} has {', '.join(known)}" if parent and known else ""
    return f"{key}: this stage has no such key{choices}"


def summarize_error(error: Exception) -> str:
    """Return an error of Hydra or OmegaConf in one line with its key, without hints for programmers."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group = error.missing_cfg_file.split("/")[0]
        nested = (CONFIG_DIRECTORY / group).rglob("*.yaml") if group == "experiment" else ()
        options = sorted(str(path.relative_to(CONFIG_DIRECTORY / group).with_suffix("")) for path in nested)
        return f"{error.missing_cfg_file}: no such option; choose one of {', '.join(options or error.options)}"
    # Hydra wraps an error in a file of the tree without naming it as the cause.
    chain = (error.__cause__, error.__context__)
    cause = next((each for each in chain if isinstance(each, OmegaConfBaseException)), error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        parent = cause.parent_node
        return describe_unknown_key(str(cause.full_key), map(str, parent) if isinstance(parent, DictConfig) else ())
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {describe_bad_value(cause)}"
    if (found := AMBIGUOUS.match(str(error))) is not None:
        return f"{found[1]}: has several values; add -m to run one job for each, or write KEY=[a,b] for a list"
    if "Config group override must be a string" in str(error):
        return "name an option of the group"
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("To append to your ", "See https://"))]
    return f"{kept[0]}; {' '.join(kept[1:])}" if len(kept) > 1 else " ".join(kept) or type(error).__name__


def describe_bad_value(error: OmegaConfBaseException) -> str:
    """Return why a value does not fit its key, in the words of the command line."""
    reason = str(error.msg).splitlines()[0]
    explained = {
        "is not Optional": "must have a value",
        "Cannot convert 'dict' to": "is a single value and has no keys below it",
        "is not a subclass of": f"holds keys of its own; write {error.full_key}.KEY=VALUE",
        "ListConfig": f"{reason}; write a list as [a,b]",
    }
    return next((words for phrase, words in explained.items() if phrase in reason), reason)
