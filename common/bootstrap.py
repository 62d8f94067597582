"""Makes the checkout the package `siamese_diffusion` for scripts that are run by their path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import TracebackType

PACKAGE = "siamese_diffusion"
HERE = Path(__file__).resolve().parent


def enter_package(script: str) -> str:
    """Import the checkout, whatever its folder is called; returns the script's package name.

    By path rather than through sys.path: with the root on it, our `nodes` and `models` would
    shadow ComfyUI's; with a script's folder or this one on it, our modules would shadow others.
    The imports that follow take seconds: Ctrl-C during them ends with one line.
    """
    sys.excepthook = explain
    root, folder = HERE.parent, Path(script).resolve().parent
    spec = importlib.util.spec_from_file_location(
        PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"{root}: incomplete checkout, __init__.py is missing.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    for path in (str(HERE), str(folder)):
        if path in sys.path:  # a process that the script has spawned is without its folder
            sys.path.remove(path)
    return f"{PACKAGE}.{folder.name}"


def missing_package(error: BaseException) -> str | None:
    """The message for an import that failed because a package is not installed; else None."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    # Of one that is there, only a part is missing: another version, or our bug.
    if sys.modules.get(package) or importlib.util.find_spec(package):
        return None
    return (
        f"the package {package} is missing. In the checkout's folder, pip install '.[train]' "
        "installs what training needs, '.[evaluate]' what the evaluation needs."
    )


def explain(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """A stack trace, but not for Ctrl-C or a missing package."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped by Ctrl-C", file=sys.stderr)
    elif message := missing_package(error):
        print(f"error: {message}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, at)
