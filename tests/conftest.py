"""Fixtures of all tests, and the checkout made importable as `siamese_diffusion`."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from siamese_diffusion.tools.comfy_host import ComfyHost

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "siamese_diffusion"


def _import_checkout() -> None:
    """Import this checkout as the package, whatever its folder is called and wherever it is.

    Loaded by path, not through sys.path: with the root on it, our `nodes` and `models` would shadow
    ComfyUI's, and a second checkout's editable install could be tested instead of this one.
    """
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {ROOT / '__init__.py'}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


_import_checkout()
pytest.register_assert_rewrite("support")
pytest_plugins = ["support.needs"]
# Fixture -> the mark of every test that uses it, itself or through other fixtures.
MARKED = {
    "host": "server", "in_the_page": "browser", "pack": "comfyui", "trained": "slow",
    "evaluation_out": "slow",
}  # fmt: skip
# Tests choose their training host themselves.
SD_SCRIPTS = os.environ.pop("SD_SCRIPTS_DIR", None)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in MARKED.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKED[fixture])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads changes rounding."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    """One ComfyUI server for all tests, started by the first that asks for it.

    It is killed if it, or a node, ever sends anything to anyone but those who ask it.
    """
    from siamese_diffusion.tools.comfy_host import COMFYUI, ComfyHost
    from support import no_network
    from support.needs import Need

    if not COMFYUI.is_dir():
        Need.COMFYUI.skip()
    base = tmp_path_factory.mktemp("Comfy UI")  # people's folders have spaces in their names
    with ComfyHost(base, through=no_network.PREFIX) as running:
        yield running


@pytest.fixture(scope="session")
def sd_scripts() -> Path:
    """A checkout of kohya-ss sd-scripts; without it the test skips."""
    from support.needs import Need

    return Path(SD_SCRIPTS or Need.SD_SCRIPTS.skip()).resolve()


@pytest.fixture(params=["standalone", "sd-scripts"])
def host_flags(request: pytest.FixtureRequest) -> list[str]:
    """The flags that choose a training host: the same tests run on both."""
    if request.param == "standalone":
        return ["--host=standalone"]
    return [f"--sd_scripts={request.getfixturevalue('sd_scripts')}"]


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano SD 1.5 checkpoint with random weights: the base model of all tests."""
    from siamese_diffusion.tools.nano import build_nano

    return build_nano(tmp_path_factory.mktemp("base model") / "nano.safetensors")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prompt.jsonl of six generated image-mask pairs of 64 px."""
    from siamese_diffusion.tools.pairs import write_pairs

    folder = tmp_path_factory.mktemp("ünïcode pairs")
    write_pairs(folder, count=6, size=64, seed=0)
    return folder / "prompt.jsonl"


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.context.ForkServerContext]:
    """Fresh processes that need not import everything again, and have this checkout."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "siamese_diffusion.training.run.start"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"))
        yield context
