"""kohya-ss sd-scripts: the only module that imports its `library`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ....common.arguments import Parser
from ...errors import ConfigError
from .locate import TESTED

Library = Any  # the package `library`, its modules as attributes
# What is called, by module.
NEEDED = {
    "config_util": ("BlueprintGenerator", "ConfigSanitizer", "add_config_arguments"),
    "custom_train_functions": (
        "add_custom_train_arguments",
        "add_v_prediction_like_loss",
        "apply_debiased_estimation",
        "apply_snr_weight",
        "fix_noise_scheduler_betas_for_zero_terminal_snr",
        "prepare_scheduler_for_custom_training",
        "scale_v_prediction_loss_like_noise_prediction",
    ),
    "deepspeed_utils": ("add_deepspeed_arguments",),
    "model_util": ("load_models_from_stable_diffusion_checkpoint", "load_vae"),
    "sai_model_spec": ("add_model_spec_arguments",),
    "strategy_sd": ("SdTextEncodingStrategy", "SdTokenizeStrategy"),
    "train_util": (
        "add_dataset_arguments",
        "add_optimizer_arguments",
        "add_sd_models_arguments",
        "add_training_arguments",
        "get_noise_noisy_latents_and_timesteps",
        "get_optimizer",
        "get_sai_model_spec_dataclass",
        "get_scheduler_fix",
        "is_schedulefree_optimizer",
        "load_target_model",
        "prepare_dataset_args",
        "verify_training_args",
    ),
}


def load_library(folder: Path) -> Library:
    """Import what is needed of sd-scripts' `library`, by path.

    With its root on sys.path its `pytorch_lightning` stub would hide the real one. Raises
    ConfigError for missing dependencies, for another version, and for another `library`.
    """
    with _root_logger_kept():
        try:
            _enter_package(folder / "library")
            for name in NEEDED:
                importlib.import_module(f"library.{name}")
        except ConfigError:
            raise
        except Exception as error:  # whatever a broken checkout or environment raises
            raise ConfigError(_cannot_import(folder, error)) from error
    missing = [
        f"library.{name}.{function}"
        for name, functions in NEEDED.items()
        for function in functions
        if not hasattr(sys.modules[f"library.{name}"], function)
    ]
    if missing:
        raise ConfigError(_another_version(folder, f"no {', '.join(missing)}"))
    return sys.modules["library"]


def _enter_package(package: Path) -> None:
    """Make `library` the package in that folder, without sys.path."""
    if "library" in sys.modules:
        present = [Path(place).resolve() for place in sys.modules["library"].__path__]
        if package.resolve() not in present:
            raise ConfigError(f"--sd_scripts: another `library` is loaded already, from {present}.")
        return
    spec = importlib.util.spec_from_file_location(
        "library", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None or not (package / "__init__.py").is_file():
        raise ConfigError(f"--sd_scripts: {package}/__init__.py is missing; clone it again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["library"] = module
    spec.loader.exec_module(module)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """On import sd-scripts gives the root logger a handler and a level, unless it has a handler."""
    root, quiet = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(quiet)
    # What is wrong reaches us as exceptions; what is left is bilingual and verbose.
    logging.getLogger("library").setLevel(logging.WARNING)
    logging.getLogger("library.config_util").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.removeHandler(quiet)
        root.setLevel(level)


def _cannot_import(folder: Path, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing.startswith("library"):
        return _another_version(folder, f"no {missing}")
    what = f"{missing} is not installed" if missing else f"{type(error).__name__}: {error}"
    return (
        f"sd-scripts in {folder} cannot be imported: {what}. Install what it needs, in its folder: "
        "pip install -r requirements.txt; or use --host standalone."
    )


def _another_version(folder: Path, problem: str) -> str:
    return (
        f"sd-scripts in {folder} is of a version unknown here: {problem}. Use {TESTED} "
        f"(git checkout {TESTED}), or --host standalone."
    )


def build_parser(library: Library) -> argparse.ArgumentParser:
    """A parser of sd-scripts' own flags, as its train_control_net.py has them, and ModelSpec's.

    Raises ConfigError for a version whose functions take other arguments.
    """
    parser = Parser(prog="train_siamese.py", add_help=False, allow_abbrev=False)
    try:
        _add_flags(library, parser)
    except TypeError as error:
        folder = Path(library.__path__[0]).parent
        raise ConfigError(_another_version(folder, str(error))) from error
    return parser


def _add_flags(library: Library, parser: argparse.ArgumentParser) -> None:
    library.train_util.add_sd_models_arguments(parser)
    library.train_util.add_dataset_arguments(parser, False, True, True)
    library.train_util.add_training_arguments(parser, False)
    library.deepspeed_utils.add_deepspeed_arguments(parser)
    library.train_util.add_optimizer_arguments(parser)
    library.config_util.add_config_arguments(parser)
    library.custom_train_functions.add_custom_train_arguments(parser)
    library.sai_model_spec.add_model_spec_arguments(parser)


def parse_flags(folder: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of sd-scripts with the values that its parser makes of words and of a file's values.

    argparse exits with 2 for a wrong value.
    """
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words.append(f"--{name}" if value is True else f"--{name}={value}")
    given = vars(build_parser(load_library(folder)).parse_args(words))
    return {name: given[name] for name in flags}


def commit(folder: Path) -> str:
    """First digits of a clone's commit, or nothing where that cannot be read."""
    try:
        head = (folder / ".git/HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            head = (folder / ".git" / head[5:]).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return head[:8]


def english(error: object) -> str:
    """The first line of a message, without the Japanese half that sd-scripts' messages have."""
    line = str(error).partition(" / ")[0].strip()
    return line.partition("\n")[0] or type(error).__name__
