"""This engine beside others that ask a server of chat completions: same requests, one run, alternating.

    python bench/generate.py                          50 ms a request, 256 in flight
    python bench/generate.py --latency 2 --concurrency 1000 --rows 8000
    python bench/generate.py --curator PYTHON         beside bespokelabs-curator, installed for that other Python

The server runs on a core of its own, each measurement in a process of its own on another. Rows are those of a plan of
snippets of the standard library in the documented prompt, whose tokens this engine counts. The table shows medians.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STARTED = time.time()
PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

CONTESTANTS = {
    "ours": "ours: engine, limits and journal",
    "bare": "bare aiohttp in a loop of tasks",
    "sdk": "OpenAI's SDK in a loop of tasks",
    "serial": "one request at a time, as the documented script",
    "curator": "bespokelabs-curator",
}
ROWS_OF_SERIAL = 50
"""It is slow, and its rate is the same for any number."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.contestant:
        print(json.dumps(measure(arguments)))
        return
    names = [name for name in arguments.contestants.split(",") if name != "curator" or arguments.curator]
    mock = subprocess.Popen(
        ["taskset", "-c", "1", sys.executable, Path(__file__).with_name("chat_mock.py"), str(arguments.latency)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with mock, tempfile.TemporaryDirectory() as scratch:
        port = int(mock.stdout.readline())
        results: dict[str, list[dict]] = {name: [] for name in names}
        write_bodies(arguments, Path(scratch))
        for repetition in range(arguments.repetitions):
            for name in names if repetition % 2 == 0 else names[::-1]:
                results[name].append(run_in_process(arguments, name, port, scratch, mock))
                print(f"# {repetition + 1}/{arguments.repetitions} {name}: {results[name][-1]}", flush=True)
        mock.stdin.close()
    print_report(arguments, results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the server takes for an answer")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--curator", metavar="PYTHON", help="a Python that has bespokelabs-curator")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_process(arguments: argparse.Namespace, name: str, port: int, scratch: str, mock: subprocess.Popen) -> dict:
    """Run one contestant in a process of its own; return its figures."""
    python = arguments.curator if name == "curator" else sys.executable
    command = ["taskset", "-c", "0", python, __file__, *sys.argv[1:], "--contestant", name, "--port", str(port)]
    quiet = {"TELEMETRY_ENABLED": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}
    place = tempfile.mkdtemp(dir=scratch)
    surroundings = (
        os.environ | quiet | {"HOME": place, "BODIES": f"{scratch}/bodies.jsonl", "TIKTOKEN_CACHE_DIR": scratch}
    )
    done = subprocess.run(command, cwd=place, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    mock.stdin.write("\n")
    mock.stdin.flush()
    answered, first = json.loads(mock.stdout.readline())
    started, ended = figures.pop("started"), figures.pop("ended")
    return {
        **figures,
        "asked": answered,
        "rows_per_second": round(figures["rows"] / (ended - first), 1),
        "to_first_request": round(first - started, 2),
    }


# --- what all share --------------------------------------------------------------------------------------------------


def write_bodies(arguments: argparse.Namespace, scratch: Path) -> None:
    """Write the requests of all rows, for contestants that make none, and OpenAI's vocabulary."""
    from omegaconf import OmegaConf

    from tests.teacher.vocabulary import cache_vocabulary

    cache_vocabulary(scratch)

    prompt = OmegaConf.load(PROJECT / "conf/prompt/oss_instruct.yaml")
    with open(scratch / "bodies.jsonl", "w") as file:
        for index, snippet in zip(range(arguments.rows), repeat_snippets(), strict=False):
            messages = [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user.replace("{code}", snippet)},
            ]
            body = {"model": "mock", "messages": messages, "temperature": 0, "seed": index, "max_tokens": 2500}
            file.write(json.dumps({"body": body}) + "\n")


def repeat_snippets() -> Iterator[str]:
    """Yield fifteen lines each of the standard library's source, over and over."""
    import sysconfig

    texts = [path.read_text(errors="replace") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    while True:
        for text in texts:
            lines = text.splitlines(keepends=True)
            for start in range(0, len(lines), 15):
                yield "".join(lines[start : start + 15])


def make_rows() -> list[dict]:
    with open(os.environ["BODIES"]) as file:
        return [json.loads(line) for line in file]


def measure(arguments: argparse.Namespace) -> dict:
    """Run one contestant; return rows a second from the first request on, memory and processor time."""
    url = f"http://127.0.0.1:{arguments.port}/v1"
    run: Callable = {
        "ours": run_ours,
        "bare": run_bare,
        "sdk": run_sdk,
        "serial": run_serial,
        "curator": run_curator,
    }[arguments.contestant]
    number = run(arguments, url)
    ended = time.time()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": number,
        "processor_ms_per_row": round((used.ru_utime + used.ru_stime) / number * 1000, 2),
        "memory_mb": round(used.ru_maxrss / 1024),
        "started": STARTED,
        "ended": ended,
    }


# --- the contestants -------------------------------------------------------------------------------------------------


def run_ours(arguments: argparse.Namespace, url: str) -> int:
    """Make requests from snippets, count their tokens, and journal each answer."""
    from magicoder.config import TeacherConfig
    from magicoder.teacher.address import resolve_address
    from magicoder.teacher.api_key import Key
    from magicoder.teacher.budget import Budget
    from magicoder.teacher.circuit_breaker import CircuitBreaker
    from magicoder.teacher.client import Client
    from magicoder.teacher.endpoint import Endpoint
    from magicoder.teacher.engine import Engine
    from magicoder.teacher.journal import Journal
    from magicoder.teacher.rate_limits import RateLimits
    from magicoder.teacher.request_shape import RequestShape, Shaper
    from magicoder.teacher.requests import RequestMaker
    from magicoder.teacher.tokens import load_token_counter

    teacher = TeacherConfig(
        model="mock",
        temperature=0.0,
        max_new_tokens=2500,
        model_max_tokens=8192,
    )
    client = Client(resolve_address(url), Key(None), 600.0)
    limits = RateLimits(arguments.concurrency, None, None, 600.0)
    count_tokens = load_token_counter("tiktoken", "gpt-3.5-turbo-1106")

    def make_requests() -> Iterator:
        maker = None
        with open(os.environ["BODIES"]) as file:
            for index, line in enumerate(file):
                messages = json.loads(line)["body"]["messages"]
                maker = maker or RequestMaker(teacher, messages[:1], 976, count_tokens)
                yield maker.make(index, messages[1]["content"])

    with Journal(Path("journal.jsonl"), range(arguments.rows)) as journal:
        engine = Engine(
            [Endpoint(client, limits, Shaper(RequestShape()))],
            Budget(None, None, lambda: [journal.totals]),
            CircuitBreaker(answered=False, reject_failed_rows=False, failed_before=()),
            journal,
            8,
            lambda record: None,
        )
        asyncio.run(engine.send_all(make_requests()))
        return len(journal)


def run_bare(arguments: argparse.Namespace, url: str) -> int:
    import aiohttp

    answers = []

    async def work(session: aiohttp.ClientSession, waiting: Iterator[dict]) -> None:
        for row in waiting:
            async with session.post(f"{url}/chat/completions", json=row["body"]) as response:
                answers.append((await response.json())["choices"][0]["message"]["content"])

    async def send_all() -> None:
        waiting = iter(make_rows())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session, waiting) for _ in range(arguments.concurrency)))

    asyncio.run(send_all())
    return len(answers)


def run_sdk(arguments: argparse.Namespace, url: str) -> int:
    import openai

    answers = []

    async def work(client: openai.AsyncOpenAI, waiting: Iterator[dict]) -> None:
        for row in waiting:
            completion = await client.chat.completions.create(**row["body"])
            answers.append(completion.choices[0].message.content)

    async def send_all() -> None:
        waiting = iter(make_rows())
        async with openai.AsyncOpenAI(api_key="none", base_url=url) as client:
            await asyncio.gather(*(work(client, waiting) for _ in range(arguments.concurrency)))

    asyncio.run(send_all())
    return len(answers)


def run_serial(arguments: argparse.Namespace, url: str) -> int:
    import openai

    with openai.OpenAI(api_key="none", base_url=url) as client:
        few = make_rows()[:ROWS_OF_SERIAL]
        return len([client.chat.completions.create(**row["body"]).choices[0].message.content for row in few])


def run_curator(arguments: argparse.Namespace, url: str) -> int:
    from bespokelabs import curator

    class JournalWriter(curator.LLM):
        def prompt(self, row: dict) -> list[dict]:
            return row["messages"]

        def parse(self, row: dict, response: str) -> dict:
            return {"answer": response}

    parameters = {
        "base_url": url,
        "api_key": "none",
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 10_000_000_000,
        "max_concurrent_requests": arguments.concurrency,
    }
    writer = JournalWriter(
        model_name="gpt-3.5-turbo",
        backend="openai",
        backend_params=parameters,
        generation_params={"temperature": 0, "max_tokens": 2500},
    )
    return len(writer([{"messages": row["body"]["messages"]} for row in make_rows()]).dataset)


# --- the table -------------------------------------------------------------------------------------------------------


def print_report(arguments: argparse.Namespace, results: dict[str, list[dict]]) -> None:
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=PROJECT, capture_output=True, text=True, check=False).stdout.strip()
    ideal = arguments.concurrency / arguments.latency
    print(
        f"\n{arguments.latency:g} s a request, {arguments.concurrency} in flight (ideal {ideal:,.0f} rows/s), "
        f"{arguments.rows:,} rows x {arguments.repetitions}, a core for the server and one for the client, "
        f"Python {platform.python_version()}, commit {commit}\n"
    )
    print("| | rows/s | x bare | of ideal | processor ms a row | peak memory, MB | start to first request, s |")
    print("|---|---|---|---|---|---|---|")
    base = find_median(results.get("bare", []), "rows_per_second")
    for name, runs in results.items():
        rate = find_median(runs, "rows_per_second")
        print(
            f"| {CONTESTANTS[name]} | {rate:,.0f} | {f'{rate / base:.2f}' if base else ''} | {rate / ideal:.0%} "
            f"| {find_median(runs, 'processor_ms_per_row'):.2f} | {find_median(runs, 'memory_mb'):.0f} "
            f"| {find_median(runs, 'to_first_request'):.1f} |"
        )


def find_median(runs: list[dict], figure: str) -> float:
    return statistics.median(run[figure] for run in runs) if runs else 0.0


if __name__ == "__main__":
    main()
