"""Whole functions of a document, found by the grammar of its language."""

import multiprocessing
import signal
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from tree_sitter import Language, Parser, Query, QueryCursor

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
"""The module that carries a language's grammar, and the name of its function that gives it."""

TYPESCRIPT = """
    (function_declaration body: (_)) @function
    (generator_function_declaration body: (_)) @function
    (method_definition body: (_)) @function
    (lexical_declaration (variable_declarator value: [(arrow_function) (function_expression)])) @function
    (public_field_definition value: [(arrow_function) (function_expression)]) @function
"""

FUNCTIONS = {
    # A function with decorators is taken with them, and so not once more alone.
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
"""What is a function with a body, in the query language of tree-sitter."""


class FunctionFinder:
    """Looks for functions in a process of its own, for on a hostile text a grammar may take hours, or crash.

    seconds: after so long a document is given up. An ordinary one of a megabyte takes less than one.
    """

    def __init__(self, seconds: float = 20) -> None:
        self._seconds = seconds
        self._worker: tuple[BaseProcess, Connection] | None = None

    def find(self, document: str, grammar: str, min_lines: int, max_lines: int) -> list[slice] | None:
        """As `functions_in`; None if the document was given up."""
        if self._worker is None:
            self._worker = _started()
        _, connection = self._worker
        try:
            connection.send((document, grammar, min_lines, max_lines))
            if connection.poll(self._seconds):
                return connection.recv()
        except (EOFError, ConnectionError):
            pass  # the process is gone
        self.close()
        return None

    def close(self) -> None:
        """End the process, if there is one; the next document starts another."""
        if self._worker is not None:
            process, connection = self._worker
            connection.close()
            process.kill()
            process.join()
            self._worker = None


def _started() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is seen at our end
    return process, ours


def _serve(connection: Connection) -> None:
    """Answer until the other end is gone. Ctrl-C is for the other end to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(functions_in(*task))


def functions_in(document: str, grammar: str, min_lines: int, max_lines: int) -> list[slice]:
    """Where in the document the lines of each function or method of so many lines stand, nested ones as well.

    Lines end at "\\n". A function in which there is something that the grammar does not understand is left out.
    """
    tree = _parser(grammar).parse(document.encode("utf-8", errors="replace"))
    starts = _line_starts(document)
    lines = set()
    for node in QueryCursor(_query(grammar)).captures(tree.root_node).get("function", []):
        first, last = node.start_point.row, node.end_point.row
        if min_lines <= last - first + 1 <= max_lines and not node.has_error:
            lines.add((first, last))
    return [slice(starts[first], starts[last + 1]) for first, last in sorted(lines)]


def _line_starts(document: str) -> list[int]:
    """Where each line starts, and where the document ends."""
    starts = [0]
    for line in document.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] = len(document)
    return starts


@cache
def _language(grammar: str) -> Language:
    module, function = GRAMMARS[grammar]
    return Language(getattr(import_module(module), function)())


@cache
def _parser(grammar: str) -> Parser:
    return Parser(_language(grammar))


@cache
def _query(grammar: str) -> Query:
    return Query(_language(grammar), FUNCTIONS[grammar])
