"""Serve a teacher on this machine: start `transformers serve`, wait for it, stop it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magicoder.runtime.errors import UserError
from magicoder.storage.files import TEMPORARY_PREFIX

SECONDS_TO_START = 300.0
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


@contextmanager
def serve_model(model_folder: Path, name: str, log: Path) -> Iterator[str]:
    """Yield the base URL of a server that serves `model_folder` under `name` for the length of the block.

    log: file for the server's output. The server dies with this process, even if that is killed.
    Errors: UserError if the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=log.parent) as working_directory:
        # The server answers only to the path that it was started with, so a link makes that path equal the name.
        link = Path(working_directory) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(model_folder.resolve(), target_is_directory=True)
        port = _find_free_port()
        server = _start(name, port, working_directory, log)
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, server, log)
            yield f"{url}/v1"
        finally:
            _stop(server)


# Runs in the server's process before the server: Linux then kills it with its parent. Other systems have no such call;
# there only a parent that exits by itself stops the server.
DIE_WITH_PARENT = f"""
import ctypes, os, sys
parent, *program = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
    if os.getppid() != int(parent):  # the parent is dead already
        sys.exit(1)
os.execv(program[0], program)
"""


def _start(name: str, port: int, working_directory: str, log: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("transformers")
    if not program.exists():
        raise UserError("teacher.serve_model: `transformers` is not installed with its extra `serving`")
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), str(program), "serve", name, "--port", str(port)],
            cwd=working_directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,  # Ctrl-C at the terminal is ours to handle, not the server's
        )


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy cannot reach a server of this machine
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise UserError(
                f"teacher.serve_model: the server exited with status {server.returncode}; its output is in {log}"
            )
        try:
            with opener.open(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise UserError(
        f"teacher.serve_model: the server did not start within {SECONDS_TO_START:.0f} s; its output is in {log}"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
