"""The file budgets of the design: short files, short functions, shallow nesting. There is no exemption list."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
METHOD_LINES, FILE_LINES, FUNCTION_LINES, NESTING = 200, 250, 40, 3
FILES = sorted(path for room in ("api", "jobs", "workers", "models") for path in (ROOT / room).rglob("*.py"))
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)


def depth(node: ast.AST, level: int = 0) -> int:
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        deepest = max(deepest, depth(child, level + (isinstance(child, BLOCKS) and not chained)))
    return deepest


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    documented = ast.get_docstring(node) is not None and len(node.body) > 1
    start = node.body[1].lineno if documented else node.body[0].lineno
    return (node.end_lineno or start) - start + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_budget(path):
    text = path.read_text(encoding="utf-8")
    limit = METHOD_LINES if path.parent.name == "methods" else FILE_LINES
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert body_lines(node) <= FUNCTION_LINES, f"{node.name} is too long"
            assert depth(node) <= NESTING, f"{node.name} nests too deep"


def test_top_level_holds_what_the_design_names():
    allowed = {"api", "jobs", "workers", "models", "docker", "helm", "tests", "docs"}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert {name for name in folders if not name.endswith(".egg-info") and name != "__pycache__"} <= allowed
