"""Find whole functions of a document by the grammar of its language."""

import multiprocessing
import re
import signal
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from tree_sitter import Language, Parser, Query, QueryCursor

from magicoder.seeds.decoding import end_lines_with_feeds

GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "swift": ("tree_sitter_swift", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "java": ("tree_sitter_java", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "shell": ("tree_sitter_bash", "language"),
}
"""The module of a language's grammar, and the name of the function in it that returns the grammar."""

SPELLINGS = {"c-sharp": "csharp", "c#": "csharp", "c++": "cpp", "bash": "shell", "sh": "shell"}
"""Names that datasets give to the languages."""

HEADER = re.compile(r"\A<(?:reponame|filename|gh_stars)>[^\n]*")
"""The first line of a document of StarCoder's data: its origin, in no language."""

TYPESCRIPT = """
    (function_declaration body: (_)) @function
    (generator_function_declaration body: (_)) @function
    (method_definition body: (_)) @function
    (lexical_declaration (variable_declarator value: [(arrow_function) (function_expression)])) @function
    (public_field_definition value: [(arrow_function) (function_expression)]) @function
"""

FUNCTIONS = {
    # A decorated function is matched with its decorators, not once more without them.
    "python": """
        (module (function_definition) @function)
        (block (function_definition) @function)
        (decorated_definition definition: (function_definition)) @function
    """,
    "typescript": TYPESCRIPT,
    "tsx": TYPESCRIPT,
    "csharp": """
        (method_declaration body: (_)) @function
        (constructor_declaration body: (_)) @function
        (operator_declaration body: (_)) @function
        (local_function_statement body: (_)) @function
    """,
    "rust": "(function_item body: (_)) @function",
    "swift": """
        (function_declaration body: (_)) @function
        (init_declaration body: (_)) @function
        (deinit_declaration body: (_)) @function
    """,
    "php": """
        (function_definition body: (_)) @function
        (method_declaration body: (_)) @function
    """,
    "java": """
        (method_declaration body: (_)) @function
        (constructor_declaration body: (_)) @function
        (compact_constructor_declaration body: (_)) @function
    """,
    "cpp": "(function_definition body: (_)) @function",
    "shell": "(function_definition body: (_)) @function",
}
"""Functions with a body, in tree-sitter's query language."""


def find_grammar(language: str) -> str | None:
    """Return the grammar of a language in a dataset's spelling (`c-sharp`, `data/swift`); None if unknown."""
    name = language.rstrip("/").rpartition("/")[2].lower()
    name = SPELLINGS.get(name, name)
    return name if name in GRAMMARS else None


class FunctionFinder:
    """Finds functions in a separate process: on hostile text a grammar may run for hours, or crash.

    seconds: time limit for one document. An ordinary one of a megabyte takes less than one second.
    """

    def __init__(self, seconds: float = 20) -> None:
        self._seconds = seconds
        self._worker: tuple[BaseProcess, Connection] | None = None

    def find(self, document: str, grammar: str, min_lines: int, max_lines: int) -> list[slice] | None:
        """Find functions as `find_functions` does; None if the document exceeded the limit or crashed the parser."""
        if self._worker is None:
            self._worker = _start()
        _, connection = self._worker
        try:
            connection.send((document, grammar, min_lines, max_lines))
            if connection.poll(self._seconds):
                return connection.recv()
        except (EOFError, ConnectionError):
            pass  # the process died
        self.close()
        return None

    def close(self) -> None:
        """Kill the process, if it runs; the next document starts another."""
        if self._worker is not None:
            process, connection = self._worker
            connection.close()
            process.kill()
            process.join()
            self._worker = None


def _start() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # otherwise the death of the process would not close the pipe
    return process, ours


def _serve(connection: Connection) -> None:
    """Answer until the other end closes. Ctrl-C is handled by the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(find_functions(*task))


def find_functions(document: str, grammar: str, min_lines: int, max_lines: int) -> list[slice]:
    """Return the span of each function or method with so many lines, nested ones included, in characters.

    Lines end at "\\n", in old Mac files at "\\r". Functions with syntax errors are skipped.
    """
    document = HEADER.sub(lambda header: " " * len(header[0]), end_lines_with_feeds(document))
    tree = _load_parser(grammar).parse(document.encode("utf-8", errors="replace"))
    starts = _find_line_starts(document)
    lines = set()
    for node in QueryCursor(_load_query(grammar)).captures(tree.root_node).get("function", []):
        first, last = node.start_point.row, node.end_point.row
        if min_lines <= last - first + 1 <= max_lines and not node.has_error:
            lines.add((first, last))
    return [slice(starts[first], starts[last + 1]) for first, last in sorted(lines)]


def _find_line_starts(document: str) -> list[int]:
    """Return the offset of each line, and the length of the document."""
    starts = [0]
    for line in document.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] = len(document)
    return starts


@cache
def _load_language(grammar: str) -> Language:
    module, function = GRAMMARS[grammar]
    return Language(getattr(import_module(module), function)())


@cache
def _load_parser(grammar: str) -> Parser:
    return Parser(_load_language(grammar))


@cache
def _load_query(grammar: str) -> Query:
    return Query(_load_language(grammar), FUNCTIONS[grammar])
