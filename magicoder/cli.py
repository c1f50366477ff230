"""The program: compose the config, validate it, run the stage.

magicoder stage=STAGE [GROUP=OPTION ...] [KEY=VALUE ...]
"""

import errno
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from magicoder import config
from magicoder.config import bounds, composition, launch
from magicoder.reports import sweep
from magicoder.runtime.console import say
from magicoder.runtime.errors import Interrupted, UserError
from magicoder.runtime.ranks import is_first
from magicoder.runtime.signals import STOP_SIGNALS
from magicoder.stages import STAGES, load_stage, register_configs

MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the machine rather than of the program, even where Python does not name the file."""


def main() -> int:
    """Run the command line.

    Returns 0, 1 for a user's mistake, 128 + N after signal N, or 141 if nobody reads the output any more.
    """
    arguments = sys.argv[1:] = launch.join_overrides(launch.force_new_keys(launch.quote_home(sys.argv[1:])))
    prepare_process()
    try:
        return run_command(arguments)
    except (Interrupted, KeyboardInterrupt) as interrupted:
        return report_interrupt(interrupted)
    except launch.NotComposed as error:
        return print_errors(composition.explain_command(arguments) or [composition.summarize_error(error.cause)])
    except BrokenPipeError:  # before its base class OSError
        return discard_output()
    except OSError as error:
        return print_errors([describe_os_error(error)])


def run_command(arguments: list[str]) -> int:
    """Print the help, or run one job or a sweep; return the exit status. Errors: as `launch.run_jobs`."""
    if {"--help", "-h"} & set(arguments):
        say(launch.format_help({name: stage.summary for name, stage in STAGES.items()}))
        return 0
    if composition.is_sweep(arguments) and (problems := launch.validate_sweep(arguments, validate_job)):
        return print_errors(problems)
    return launch.run_jobs(run)


def prepare_process() -> None:
    """Set up environment, streams, signals and schemas before Hydra reads the command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors to us instead of printing a traceback
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' progress bars would fill a log file
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack characters of a text
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    register_configs()


def stop(signal_number: int, _frame: FrameType | None) -> None:
    """End a stage without a safe point of its own: its files are written whole or not at all."""
    raise Interrupted(signal_number, "nothing is half-written")


def run(settings: config.StageConfig, job: str | None) -> int:
    """Run one stage. job: name of this job of a sweep, None outside a sweep.

    Returns 0, 1 for a user's mistake, or 141 if nobody reads the output any more.
    """
    prefix = "" if job is None else f"{job}: "
    try:
        if problems := validate(settings):
            raise UserError(problems)
        load_stage(settings).run(settings)
        if job is not None and isinstance(settings, config.TrainConfig) and is_first():
            sweep.summarize(Path(settings.out).parent)
        sys.stdout.flush()
    except UserError as error:
        return print_errors([prefix + problem for problem in error.problems])
    except BrokenPipeError:  # here, because Hydra prints a headline of its own for what a job raises
        return discard_output()
    except OSError as error:
        return print_errors([prefix + describe_os_error(error)])
    return 0


def discard_output() -> int:
    """Write what remains to nowhere, because the reader of our output has seen enough; return the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def validate(settings: config.StageConfig) -> list[str]:
    """List values out of bounds, then files, keys and folders that do not exist."""
    return [*bounds.validate(settings), *load_stage(settings).validate(settings)]


def validate_job(settings: config.StageConfig) -> list[str]:
    """List the mistakes of one job of a sweep."""
    problems = validate(settings)
    if isinstance(settings, config.TrainConfig):
        problems += load_stage(settings).validate_sweep(settings)
    return problems


def report_interrupt(interrupted: Interrupted | KeyboardInterrupt) -> int:
    """Print the interruption; return the exit status.

    Of several processes only the first reports, and its status counts: Fabric's launcher kills the first, which may
    still be saving, when another exits with a status other than 0.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing remains to be stopped
    if not is_first():
        return 0
    if isinstance(interrupted, KeyboardInterrupt):
        interrupted = Interrupted(signal.SIGINT, "at once; what was written before is kept")
    say(str(interrupted), error=True)
    return interrupted.exit_status


def describe_os_error(error: OSError) -> str:
    """Describe a refusal of the machine with the file. Errors: `error` itself if it is not about files."""
    if error.filename is None and error.errno not in MACHINE_ERRORS:
        raise error
    return f"{error.filename or 'disk'}: {error.strerror}; what was written before is kept"


def print_errors(problems: list[str]) -> int:
    """Print one line a problem on standard error, in red on a terminal; return exit status 1."""
    word = "\033[31merror\033[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "error"
    for problem in problems:
        say(f"{word}: {problem}", error=True)
    return 1
