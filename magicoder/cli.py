"""Compose the config, check it, run the stage: `python main.py stage=STAGE [KEY=VALUE ...]`."""

import errno
import hashlib
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from magicoder import config
from magicoder.config import bounds, composition, identity
from magicoder.reports import sweep
from magicoder.runtime.errors import Interrupted, UserError
from magicoder.runtime.ranks import is_first
from magicoder.runtime.signals import STOP_SIGNALS
from magicoder.stages import STAGES, load_stage

# Errors of the machine rather than of the program, even where Python does not say which file they are about.
MACHINE_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
LONGEST_JOB_NAME = 120


def main() -> int:
    """Run the command line; the exit status is 0, 1 for a user's mistake, 128 + N after signal N."""
    prepare_process()
    statuses: list[int] = []
    began = False

    @hydra.main(version_base="1.3", config_path=str(composition.CONFIG_DIRECTORY), config_name="config")
    def job(tree: DictConfig) -> None:
        nonlocal began
        began = True
        statuses.append(run(tree))

    try:
        if composition.is_sweep(sys.argv[1:]) and (found := composition.validate_sweep(sys.argv[1:], validate_job)):
            return print_errors(found)
        job()
    except (Interrupted, KeyboardInterrupt) as interrupted:
        return report_interrupt(interrupted)
    except composition.COMPOSITION_ERRORS as error:  # ahead of OSError: some of Hydra's are one as well
        if began:
            raise
        return print_errors(composition.command_problems(sys.argv[1:]) or [composition.one_line(error)])
    except OSError as error:
        return print_errors([machine_problem(error)])
    return max(statuses, default=0)


def prepare_process() -> None:
    """What must hold before Hydra sees the command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed with a traceback
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries; ours are plain lines there
    if {"--help", "-h"} & set(sys.argv[1:]) and not any(argument.startswith("stage=") for argument in sys.argv):
        sys.argv.append("stage=train")  # the help is the same for every stage, but Hydra composes one to show it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a text
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    composition.register_schemas({name: stage.config for name, stage in STAGES.items()})


def stop(signal_number: int, _frame: FrameType | None) -> None:
    """A stage without a safe point of its own ends where it is: its files are written whole or not at all."""
    raise Interrupted(signal_number, "nothing is half-written")


def run(tree: DictConfig) -> int:
    """Run the stage that the command names, once for each job of a sweep.

    The exit status is 0, 1 for a user's mistake, or 141 if nobody reads the output any more.
    """
    prefix = ""
    try:
        settings = composition.settings_of(tree)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            prefix = f"{job_name(settings)}: "
            settings.out = str(Path(settings.root) / "sweeps" / Path(settings.out).name / job_name(settings))
        if found := validate(settings):
            raise UserError(found)
        load_stage(settings).run(settings)
        if prefix and isinstance(settings, config.TrainConfig) and is_first():
            sweep.summarize(Path(settings.out).parent)
        sys.stdout.flush()
    except UserError as error:
        return print_errors([prefix + problem for problem in error.problems])
    except BrokenPipeError:  # ahead of OSError, of which it is one: whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return print_errors([prefix + machine_problem(error)])
    return 0


def validate(settings: config.StageConfig) -> list[str]:
    """List values out of bounds, then files, keys and folders that do not exist."""
    return [*bounds.validate(settings), *load_stage(settings).validate(settings)]


def validate_job(settings: config.StageConfig) -> list[str]:
    """List the mistakes of one job of a sweep."""
    problems = validate(settings)
    if isinstance(settings, config.TrainConfig):
        problems += load_stage(settings).validate_sweep(settings)
    return problems


def job_name(settings: config.StageConfig) -> str:
    """The directory of one job of a sweep, so that a repeated sweep finds what is done.

    It is named by the overrides that tell one result from another, whatever their order on the command line.
    """
    overrides = {override.split("=")[0]: override for override in HydraConfig.get().overrides.task}
    telling = [
        override for key, override in overrides.items() if key != "stage" and identity.names_a_run(settings, key)
    ]
    name = ",".join(sorted(telling)).replace("/", "_") or "all-defaults"
    if len(name.encode()) <= LONGEST_JOB_NAME:
        return name
    shortened = name.encode()[:LONGEST_JOB_NAME].decode(errors="ignore")
    return f"{shortened}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def report_interrupt(interrupted: Interrupted | KeyboardInterrupt) -> int:
    """Say what was interrupted; the exit status. Of several processes the first one speaks, and its status counts.

    Fabric's launcher kills the first, which may still be closing its books, when another ends with a status but 0.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # there is nothing left to stop
    if not is_first():
        return 0
    if isinstance(interrupted, KeyboardInterrupt):
        interrupted = Interrupted(signal.SIGINT, "at once; what was written before is kept")
    print(interrupted, file=sys.stderr)
    return interrupted.exit_status


def machine_problem(error: OSError) -> str:
    """What the machine refuses, and about which file. Errors: the error itself if it is no matter of files."""
    if error.filename is None and error.errno not in MACHINE_TROUBLES:
        raise error
    return f"{error.filename or 'disk'}: {error.strerror}; what was written before is kept"


def print_errors(problems: list[str]) -> int:
    """One line a problem on standard error, of several processes from the first; returns the exit status."""
    for problem in problems if is_first() else ():
        print(f"error: {problem}", file=sys.stderr)
    return 1
