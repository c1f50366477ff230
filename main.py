"""Compose the config, check it, run the stage: `python main.py stage=STAGE [KEY=VALUE ...]`."""

import errno
import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import cast

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from magicoder import config
from magicoder.errors import Interrupted, UserError

CONFIG_DIRECTORY = Path(__file__).resolve().parent / "conf"
DISK_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


def run_job(tree: DictConfig) -> int:
    """Run the stage that the command names, once for each job of a sweep; the exit status is 0 or 1."""
    swept = HydraConfig.get().mode == RunMode.MULTIRUN
    stage = importlib.import_module(f"magicoder.stages.{HydraConfig.get().runtime.choices['stage']}")
    try:
        settings = typed(tree)
        if swept:
            settings.out = str(Path(settings.root) / "sweeps" / Path(settings.out).name / job_name())
        found = [*config.problems(settings), *stage.problems(settings)]
        if found:
            raise UserError(found)
        stage.run(settings)
    except UserError as error:
        complain([f"{job_name()}: {problem}" for problem in error.problems] if swept else error.problems)
        return 1
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        complain([f"{error.filename or settings.out}: {error.strerror}; what was written before is kept"])
        return 1
    return 0


def typed(tree: DictConfig) -> config.Stage:
    """The tree as the stage's dataclass; every key without a value is named at once."""
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise UserError([f"{key}: has no value; give it one with {key}=VALUE" for key in missing])
    return cast(config.Stage, OmegaConf.to_object(tree))


def job_name() -> str:
    """The directory of one job of a sweep: what its command overrides, so that a repeated sweep finds what is done."""
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("stage=")]
    changes = [override for override in overrides if override.split("=")[0] not in ("root", "overwrite")]
    return ",".join(changes).replace("/", "_") or "all-defaults"


def composition_problems(error: Exception, arguments: list[str]) -> list[str]:
    """Everything that keeps the config from composing: each argument tried with those options that are right."""
    try:
        parsed = OverridesParser.create().parse_overrides([each for each in arguments if not each.startswith("-")])
    except HydraException:
        return [one_line(error)]
    single = [override for override in parsed if not override.is_sweep_override()]
    is_option = {str(each.input_line): (CONFIG_DIRECTORY / str(each.key_or_group)).is_dir() for each in single}
    ordered = sorted(is_option, key=lambda line: (not line.startswith("stage="), not is_option[line]))
    right: list[str] = []
    found = []
    for line in ordered:
        problem = composition_problem([*right, line])
        if problem is not None:
            found.append(problem)
        elif is_option[line]:
            right.append(line)
        if line.startswith("stage=") and problem is not None:
            break  # without a stage nothing else can be judged
    return list(dict.fromkeys(found)) or [one_line(error)]


def composition_problem(overrides: list[str]) -> str | None:
    """What keeps these overrides from composing; None if nothing does."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        try:
            compose("config", overrides=overrides)
        except (HydraException, OmegaConfBaseException) as error:
            return one_line(error)
    return None


def one_line(error: Exception) -> str:
    """The gist of an error of Hydra's or OmegaConf's with the key it is about, without hints for programmers."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigKeyError):
        return f"{cause.full_key}: this stage has no such key"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {str(cause.msg).splitlines()[0]}"
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    first, *rest = [line for line in lines if not line.startswith("To append to your config")]
    return f"{first}; {' '.join(rest)}" if rest else first


def stop(signal_number: int, _frame: FrameType | None) -> None:
    """A stage without a safe point of its own ends where it is: its files are written whole or not at all."""
    raise Interrupted(signal_number, "nothing is half-written")


def main() -> int:
    """Run the command line; the exit status is 0, 1 for a user's mistake, 128 + N after signal N."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed with a traceback
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries; ours are plain lines there
    config.register_schemas()
    if {"--help", "-h"} & set(sys.argv[1:]) and not any(argument.startswith("stage=") for argument in sys.argv):
        sys.argv.append("stage=train")  # the help is the same for every stage, but Hydra composes one to show it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name="config")
    def job(tree: DictConfig) -> None:
        statuses.append(run_job(tree))

    try:
        job()
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return interrupted.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (HydraException, OmegaConfBaseException) as error:
        complain(composition_problems(error, sys.argv[1:]))
        return 1
    return max(statuses, default=0)


def complain(problems: list[str]) -> None:
    """One line a problem, on standard error."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
