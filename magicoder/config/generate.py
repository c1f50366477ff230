"""Config of the generate stage."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

from omegaconf import MISSING

from magicoder.config.bounds import find_url_problems, require_above, require_at_least, require_one_of, require_paths
from magicoder.config.identity import execution, later, location, revisable
from magicoder.config.stage import StageConfig


@dataclass
class EvolutionConfig:
    """`data.generate.evolve`: which instructions grow harder, and how often."""

    instruction_files: Any = location()
    rounds: int = revisable()
    similarity: float = MISSING

    def check(self) -> Iterator[str]:
        yield from require_at_least(1, rounds=self.rounds)
        if not 0 < self.similarity <= 1:
            yield f"similarity={self.similarity}: must be above 0 and at most 1"
        yield from require_paths(instruction_files=self.instruction_files)
        if not self.instruction_files:
            yield "instruction_files: name at least one file with instructions"


@dataclass
class SeedsConfig:
    """`data.generate`: what inspires the teacher. Each source has a subclass with the keys that it reads."""

    source: str = MISSING
    tag: str = MISSING
    max_considered_data: Optional[int] = MISSING
    max_new_data: int = MISSING
    seed_code_start_index: int = MISSING
    seed: int = MISSING

    def check(self) -> Iterator[str]:
        expected = next(name for name, kind in SOURCES.items() if isinstance(self, kind))
        if self.source != expected:
            yield f"source={self.source}: follows from the option of data/generate, here {expected}"
        yield from require_at_least(0, seed_code_start_index=self.seed_code_start_index, seed=self.seed)
        yield from require_at_least(1, max_new_data=self.max_new_data)
        if self.max_considered_data is not None:
            yield from require_at_least(1, max_considered_data=self.max_considered_data)
        if not self.tag or "-" in self.tag or "/" in self.tag:
            yield f"tag={self.tag}: must be one word without - or /, because the clean stage reads the language from it"


@dataclass
class SnippetsConfig(SeedsConfig):
    """Snippets of code from any source."""

    continue_from: Optional[str] = MISSING
    parser: str = revisable()
    samples: int = later(implied=1, revisable=True)
    skip_blank: bool = later(implied=False)
    secrets: str = later(implied="keep")

    def check(self) -> Iterator[str]:
        yield from super().check()
        yield from require_one_of(("strict", "tolerant"), parser=self.parser)
        yield from require_one_of(("skip", "keep"), secrets=self.secrets)
        yield from require_at_least(1, samples=self.samples)


@dataclass
class DrawnCodeConfig(SnippetsConfig):
    """Snippets drawn from longer documents."""

    chunk_size: int = MISSING
    min_lines: int = MISSING
    max_lines: int = MISSING
    snippets_per_document: int = later(implied=1)
    unit: str = MISSING

    def check(self) -> Iterator[str]:
        yield from super().check()
        yield from require_one_of(("lines", "functions"), unit=self.unit)
        yield from require_at_least(1, chunk_size=self.chunk_size, min_lines=self.min_lines)
        yield from require_at_least(self.min_lines, max_lines=self.max_lines)
        yield from require_at_least(1, snippets_per_document=self.snippets_per_document)


@dataclass
class HubCodeConfig(DrawnCodeConfig):
    """Documents of a dataset of the Hugging Face hub, or of a folder of the same form."""

    dataset_name: str = MISSING
    data_dir: Optional[str] = MISSING
    unit: str = later(implied="lines")

    def check(self) -> Iterator[str]:
        yield from super().check()
        if not self.dataset_name:
            yield "dataset_name: name a dataset of the Hugging Face hub or a folder of the same form"


@dataclass
class LocalCodeConfig(DrawnCodeConfig):
    """Source files of a folder. data_dir: a language, or a list of several."""

    path: Optional[str] = MISSING
    data_dir: Any = MISSING
    near_duplicates: bool = MISSING
    licenses: Optional[list[str]] = MISSING
    suffixes: Optional[list[str]] = later(implied=None)
    untracked: bool = later(implied=False)
    secrets: str = later(implied="skip")

    @property
    def languages(self) -> list[str]:
        """The languages to take; several only as a list."""
        return list(self.data_dir) if isinstance(self.data_dir, list) else [self.data_dir]

    def check(self) -> Iterator[str]:
        yield from super().check()
        if self.path is not None and not self.path.strip():
            yield "path: is empty; name a folder, or null for the standard library of this Python"
        if self.licenses is not None and not self.licenses:
            yield "licenses: name at least one; null allows any"
        if not self.languages or not all(isinstance(each, str) and each for each in self.languages):
            yield f"data_dir={self.data_dir}: name a language, or several as [a,b]"
        elif len(set(self.languages)) < len(self.languages):
            yield f"data_dir={self.data_dir}: names a language twice"
        if self.suffixes is not None:
            yield from self._check_suffixes(self.suffixes)

    def _check_suffixes(self, suffixes: list[str]) -> Iterator[str]:
        if not suffixes:
            yield "suffixes: name at least one; null means those of data_dir"
        for suffix in suffixes:
            if len(suffix) < 2 or not suffix.startswith(".") or "/" in suffix:
                yield f"suffixes: {suffix!r} must begin with a dot, as in .go"
        if len(self.languages) > 1:
            yield "suffixes: are those of one language; name one in data_dir"


@dataclass
class RowsConfig(SnippetsConfig):
    """Snippets as they are: each row of a file is one."""

    path: str = MISSING
    column: str = MISSING

    def check(self) -> Iterator[str]:
        yield from super().check()
        if not self.column:
            yield "column: name the column that holds the code"


@dataclass
class InstructionsConfig(SeedsConfig):
    """Instructions that evolve."""

    evolve: EvolutionConfig = field(default_factory=EvolutionConfig)


SOURCES: dict[str, type[SeedsConfig]] = {
    "hub": HubCodeConfig,
    "local": LocalCodeConfig,
    "rows": RowsConfig,
    "instructions": InstructionsConfig,
}
"""The config class of each `data.generate.source`."""


@dataclass
class WorkedExampleConfig:
    """One exchange shown to the teacher before the real request."""

    user: str = MISSING
    assistant: str = MISSING


@dataclass
class TeacherPromptConfig:
    """`prompt` of generate: the messages of a request, with `{code}` as placeholder of the snippet."""

    system: Optional[str] = MISSING
    user: str = MISSING
    examples: list[WorkedExampleConfig] = MISSING
    operations: dict[str, str] = MISSING


@dataclass
class PriceConfig:
    """Dollars for a million tokens; null where that is not known."""

    input: Optional[float] = MISSING
    output: Optional[float] = MISSING

    def check(self) -> Iterator[str]:
        for name, dollars in (("input", self.input), ("output", self.output)):
            if dollars is not None:
                yield from require_at_least(0, **{name: dollars})


@dataclass
class BatchConfig:
    """`teacher.batch`: what OpenAI's Batch API takes at once, and for which part of the price."""

    requests: int = MISSING
    megabytes: float = MISSING
    price: float = MISSING
    poll_seconds: float = MISSING

    def check(self) -> Iterator[str]:
        yield from require_at_least(1, requests=self.requests)
        yield from require_above(0, megabytes=self.megabytes, poll_seconds=self.poll_seconds)
        yield from require_at_least(0, price=self.price)


@dataclass
class RequestConfig:
    """`teacher.request`: the form in which the server takes requests."""

    omit: list[str] = later(implied=[], revisable=True)
    max_tokens_field: str = later(implied="max_tokens", revisable=True)
    seed_field: str = later(implied="seed", revisable=True)
    system_role: str = later(implied="system", revisable=True)
    extra_body: dict[str, Any] = later(implied={}, revisable=True)
    extra_headers: dict[str, str] = execution()

    def check(self) -> Iterator[str]:
        fields = ("n", "seed", "temperature", "max_tokens", self.seed_field, self.max_tokens_field, *self.extra_body)
        if unknown := [name for name in self.omit if name not in fields]:
            yield f"omit: {', '.join(unknown)}: choose from {', '.join(dict.fromkeys(fields))}"
        yield from require_one_of(("system", "developer", "user", "none"), system_role=self.system_role)
        for key, name in (("max_tokens_field", self.max_tokens_field), ("seed_field", self.seed_field)):
            if not name:
                yield f"{key}: name a field; omit=[{key.removesuffix('_field')}] sends none"
        if "messages" in self.extra_body or "model" in self.extra_body:
            yield "extra_body: model and messages have keys of their own (teacher.model, prompt)"
        for name in self.extra_headers:
            if re.search("auth|key|token|secret|cookie", name, re.IGNORECASE):
                yield (
                    f"extra_headers.{name}: holds a secret, which a config must not: put the key into the variable "
                    "of teacher.api_key_env (teacher.key_header names its header), those of OPENAI_API_KEY into "
                    "OPENAI_CUSTOM_HEADERS"
                )


@dataclass
class TeacherConfig:
    """`teacher`: the model that writes, and how it is asked."""

    model: str = MISSING
    temperature: Optional[float] = MISSING
    max_new_tokens: int = revisable()
    model_max_tokens: int = revisable()
    tokenizer: str = location()
    serve_model: Optional[str] = MISSING
    base_url: Any = execution()
    api_key_env: Optional[str] = execution()
    key_header: str = execution()
    request: RequestConfig = field(default_factory=RequestConfig)
    thoughts: list[str] = later(
        implied=["<think> </think>", "<thinking> </thinking>", "[THINK] [/THINK]"], revisable=True
    )
    mode: str = execution()
    concurrency: int = execution()
    requests_per_minute: Optional[float] = execution()
    tokens_per_minute: Optional[float] = execution()
    max_attempts: int = execution()
    max_wait: float = execution()
    reject_failed_rows: bool = execution()
    timeout: float = execution()
    max_cost: Optional[float] = execution()
    price: PriceConfig = field(default_factory=PriceConfig, metadata={"identity": False})
    prices: dict[str, PriceConfig] = execution()
    batch: BatchConfig = field(default_factory=BatchConfig, metadata={"identity": False})
    results_file: Optional[str] = execution()

    @property
    def base_urls(self) -> list[Optional[str]]:
        """The addresses that share the work; None stands for the environment's or OpenAI's own."""
        return self.base_url if isinstance(self.base_url, list) else [self.base_url]

    @property
    def thought_tags(self) -> dict[str, str]:
        """The closing tag of each opening tag around thoughts."""
        return dict(tags.split() for tags in self.thoughts)

    @property
    def known_price(self) -> Optional[tuple[float, float]]:
        """Dollars for a million tokens of requests and of answers, asked live; None where the config does not say."""
        for price in (self.price, self.prices.get(self.model, self.price)):
            if price.input is not None and price.output is not None:
                return price.input, price.output
        return None

    def check(self) -> Iterator[str]:
        if self.temperature is not None:
            yield from require_at_least(0, temperature=self.temperature)
        yield from self._check_limits()
        yield from require_at_least(1, max_new_tokens=self.max_new_tokens, model_max_tokens=self.model_max_tokens)
        yield from require_one_of(("live", "batch", "file"), mode=self.mode)
        if self.serve_model is not None and self.mode != "live":
            yield f"mode={self.mode}: a model that this run serves itself is asked live"
        yield from self._check_addresses()
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.api_key_env):
            # Not quoted: it may be the key itself.
            yield "api_key_env: must be the name of an environment variable; put the key into that variable"
        if odd := [tags for tags in self.thoughts if len(tags.split()) != 2]:
            yield f"thoughts: {', '.join(map(repr, odd))}: needs an opening and a closing tag with a blank between"
        if self.serve_model is not None and (self.model.startswith("/") or ".." in self.model.split("/")):
            yield f"model={self.model}: is the name of a folder here, so it can be no absolute path and hold no .."

    def _check_addresses(self) -> Iterator[str]:
        if not self.base_urls:
            yield "base_url: name at least one address; null stands for OpenAI's"
        for url in self.base_urls:
            if url is not None and not isinstance(url, str):
                yield f"base_url={url}: must be an address, or a list of addresses: [http://one/v1,http://two/v1]"
            elif url:
                yield from (f"base_url: {problem}" for problem in find_url_problems(url))  # it may hold a password
        if len(self.base_urls) > 1 and self.mode != "live":
            yield f"mode={self.mode}: takes one address; only mode=live shares the work among several"
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.key_header):
            yield f"key_header={self.key_header}: must be the name of a header, such as Authorization or api-key"

    def _check_limits(self) -> Iterator[str]:
        yield from require_at_least(1, concurrency=self.concurrency, max_attempts=self.max_attempts)
        yield from require_above(0, timeout=self.timeout, max_wait=self.max_wait)
        rates = {"requests_per_minute": self.requests_per_minute, "tokens_per_minute": self.tokens_per_minute}
        for name, rate in rates.items():
            if rate is not None:
                yield from require_above(0, **{name: rate})
        if self.max_cost is not None:
            yield from require_above(0, max_cost=self.max_cost)
            if self.mode == "file":
                yield f"max_cost={self.max_cost:g}: cannot bound mode=file; dry_run=true estimates the cost"
            if {"max_tokens", self.request.max_tokens_field} & {*self.request.omit}:
                yield f"max_cost={self.max_cost:g}: cannot bound answers without a limit (request.omit)"
            if self.known_price is None:
                yield (
                    f"max_cost={self.max_cost:g}: the price of {self.model} is not known; say what a million tokens "
                    "cost: 'teacher.price={input: 1.0, output: 2.0}'"
                )


@dataclass
class GenerateDataConfig:
    generate: SeedsConfig = field(default_factory=SeedsConfig)


@dataclass
class GenerateConfig(StageConfig):
    """Config of one run of the generate stage."""

    stage: ClassVar[str] = "generate"

    data: GenerateDataConfig = field(default_factory=GenerateDataConfig)
    prompt: TeacherPromptConfig = field(default_factory=TeacherPromptConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    # Show what would be asked and what it would cost, and ask nothing.
    dry_run: bool = execution(False)
    # Ask so many requests alone, show their answers, and stop; the same command without it asks the others.
    preview: int = execution(0)

    def check(self) -> Iterator[str]:
        yield from super().check()
        evolves = isinstance(self.data.generate, InstructionsConfig)
        yield from require_at_least(0, preview=self.preview)
        if (
            isinstance(self.data.generate, SnippetsConfig)
            and self.data.generate.samples > 1
            and self.teacher.temperature == 0
        ):
            yield "data.generate.samples: teacher.temperature=0 gives the same answer each time; set it above 0"
        if self.preview and self.teacher.mode != "live":
            yield f"preview={self.preview}: needs teacher.mode=live; the answers stay for every other mode"
        for placeholder in ("{instruction}", "{operation}") if evolves else ("{code}",):
            if placeholder not in self.prompt.user:
                yield f"prompt.user: has no {placeholder}, so none would reach the teacher"
        if evolves and not self.prompt.operations:
            yield "prompt.operations: name at least one way to make an instruction harder"
