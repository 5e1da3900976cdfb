"""Check what no linter checks: the length of files and functions, and blocks written twice.

    python tests/tools/limits.py FOLDER [FOLDER ...]

Prints one line per violation and exits with 1 when there is any.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_SIMILAR_LINES = 7  # a block of 8 is one too many

Line = tuple[int, str]  # line number, text without comment and layout
IGNORED_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def too_long(path: Path, source: str, tree: ast.Module) -> Iterator[str]:
    """Yield the violations of the two length limits in one file."""
    num_lines = source.count("\n")
    if num_lines > MAX_FILE_LINES:
        yield f"{path}:1: {num_lines} lines in a file; at most {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield (
                    f"{path}:{node.lineno}: {length} lines in `{node.name}`; "
                    f"at most {MAX_FUNCTION_LINES}"
                )


def unimportant_lines(tree: ast.Module) -> set[int]:
    """Return the numbers of lines that hold imports or free strings (docstrings)."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom):
            continue
        value = node.value if isinstance(node, ast.Expr) else None
        if value is None or (isinstance(value, ast.Constant) and isinstance(value.value, str)):
            numbers.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return numbers


def significant_lines(source: str, tree: ast.Module) -> list[Line]:
    """Return the lines that carry code, without comments, layout and lines of brackets only."""
    skipped = unimportant_lines(tree)
    words: dict[int, list[str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in IGNORED_TOKENS and token.start[0] not in skipped:
            words.setdefault(token.start[0], []).append(token.string)
    joined = ((number, " ".join(parts)) for number, parts in words.items())
    return [(number, text) for number, text in joined if any(c.isalnum() for c in text)]


def copies(files: Iterable[tuple[Path, list[Line]]]) -> Iterator[str]:
    """Yield one violation per block of lines that has occurred before, in any of the files."""
    window = MAX_SIMILAR_LINES + 1
    seen: dict[tuple[str, ...], tuple[Path, int, int]] = {}
    for path, lines in files:
        inside = False
        for start in range(len(lines) - window + 1):
            block = tuple(text for _, text in lines[start : start + window])
            first_path, first_line, first_start = seen.setdefault(
                block, (path, lines[start][0], start)
            )
            found = first_path != path or start - first_start >= window
            if found and not inside:
                yield (
                    f"{path}:{lines[start][0]}: {window} lines or more are also at "
                    f"{first_path}:{first_line}; write the idea once"
                )
            inside = found


def violations(folders: Iterable[Path]) -> list[str]:
    """Return all violations in the Python files below some folders."""
    lengths: list[str] = []
    files: list[tuple[Path, list[Line]]] = []
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source, filename=str(path))
            lengths.extend(too_long(path, source, tree))
            files.append((path, significant_lines(source, tree)))
    return lengths + list(copies(files))


def main(arguments: list[str]) -> int:
    """Print the violations in the given folders and return the exit code."""
    if not arguments:
        print(__doc__)
        return 2
    found = violations(Path(a) for a in arguments)
    for line in found:
        print(line)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
