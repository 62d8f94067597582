"""What ComfyUI-Manager's users get: all that the nodes need, and nothing that a scanner would flag.

The registry holds back a version with any finding of its scanner, and Manager then keeps offering
the one before.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from support.paths import ROOT
from support.registry_archive import archive_files

NEEDED = {
    *("LICENSE", "NOTICE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt"),
    *("common", "locales", "models", "nodes", "subgraphs", "web", "workflows"),
}
# Processes, networks, code from texts or by names, and memory.
MODULES = {
    *(
        "asyncio",
        "code",
        "ctypes",
        "ftplib",
        "http",
        "imp",
        "importlib",
        "marshal",
        "multiprocessing",
    ),
    *("pip", "pty", "requests", "runpy", "shelve", "socket", "subprocess", "telnetlib", "urllib"),
}
CALLS = {
    *("__import__", "compile", "eval", "exec", "os.execv", "os.fork", "os.popen", "os.putenv"),
    *("os.spawnv", "os.startfile", "os.system", "pickle.load", "pickle.loads"),
}
PAGE_CODE = ("eval(", "Function(", "fetch(", "XMLHttpRequest", "WebSocket", "import(", "innerHTML")


def findings(source: str) -> Iterator[str]:
    """What a scanner may stumble over."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        yield from (name for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield ast.unparse(node.func)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ":
            yield "os.environ"


def reached(start: PurePosixPath) -> set[PurePosixPath]:
    """The modules of this package that a module imports, itself or through others."""
    found: set[PurePosixPath] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        if path in found or not (ROOT / path).is_file():
            continue
        found.add(path)
        todo += [folder / "__init__.py" for folder in path.parents]
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = path.parents[node.level - 1] / (node.module or "").replace(".", "/")
                names = [folder, *(folder / alias.name for alias in node.names)]
                todo += [name.with_suffix(".py") for name in names if name.name]
                todo += [name / "__init__.py" for name in names]
    return found


def test_the_scan_finds_what_it_looks_for() -> None:
    source = "import urllib.request\nfrom subprocess import run\neval('1')\nos.environ['A'] = 'b'"
    assert sorted(findings(source)) == ["eval", "os.environ", "subprocess", "urllib.request"]


def test_the_archive_holds_what_the_nodes_need_and_nothing_else() -> None:
    assert {path.parts[0] for path in archive_files()} == NEEDED
    modules = {PurePosixPath(path) for path in archive_files() if path.suffix == ".py"}
    assert modules == reached(PurePosixPath("__init__.py")), "bring .comfyignore up to date"
    kinds = {path.suffix for path in archive_files() if len(path.parts) > 1}
    assert kinds == {".py", ".json", ".jpg", ".md", ".js"}
    assert {path for path in archive_files() if path.parts[0] == "web"} == {
        path.relative_to(ROOT) for path in (ROOT / "web").rglob("*") if path.is_file()
    }


def test_no_file_of_it_starts_processes_opens_connections_or_imports_by_name() -> None:
    found = {}
    for path in archive_files():
        text = (ROOT / path).read_text("utf-8") if path.suffix in {".py", ".js"} else ""
        if path.suffix == ".py":
            found[path] = [*findings(text)]
        elif path.suffix == ".js":
            found[path] = [word for word in PAGE_CODE if word in text]
    assert {path: what for path, what in found.items() if what} == {}


def test_readme_says_where_training_comes_from() -> None:
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert "ComfyUI-Manager installs the nodes alone" in readme
