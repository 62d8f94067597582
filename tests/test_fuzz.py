"""Made-up files: refused in words or read, never more. `make fuzz` looks for as long as you like.

Each example is a small change to something right. Nothing may run, hang, take much memory or end
in any other error than those whose message is for the user.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from siamese_diffusion.common.errors import MessageError
from siamese_diffusion.common.scores import read_scores
from siamese_diffusion.common.text import visible
from siamese_diffusion.models.kinds import SIAMESE_KINDS
from siamese_diffusion.models.metadata import read_recipe
from siamese_diffusion.models.weights import WeightsError, read_weights
from siamese_diffusion.training.command_line import read_config_file
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.errors import ConfigError
from support.fuzzed import LISTS, METADATAS, PICKLES, headers, tables
from support.hostile_data import good
from support.hostile_pickles import as_legacy, as_zip
from support.hostile_weights import METADATA, tensors
from support.remedies import QUOTED, missing_parts
from support.small_datasets import load

pytestmark = pytest.mark.slow  # many examples each

# Each test's; in CI a few seconds.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
MOST_MEMORY = 4 << 20  # kB
bounded = settings(
    max_examples=EXAMPLES, deadline=timedelta(seconds=60), database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory() -> Iterator[None]:
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_MEMORY


def check(error: Exception, path: Path) -> None:
    """The message names file, finding and remedy, and can be shown anywhere."""
    message = str(error)
    assert visible(message) == message
    assert path.name in message
    assert missing_parts(QUOTED.sub("", message), str(path), path.name) == [], message
    assert 20 < len(message) < 20_000


def read(path: Path) -> None:
    try:
        weights = read_weights(path)
        if weights.kind in SIAMESE_KINDS:
            read_recipe(weights)
    except WeightsError as error:
        check(error, path)
        assert "\n" not in str(error)


@bounded
@given(data=headers())
def test_safetensors_headers(data: bytes, folder: Path) -> None:
    (path := folder / "a.safetensors").write_bytes(data)
    read(path)


@bounded
@given(changed=METADATAS)
def test_metadata(changed: dict[str, str], folder: Path) -> None:
    texts = {key: value.encode("utf-8", "replace").decode() for key, value in changed.items()}
    told = {**METADATA, **texts}
    save_file(tensors(), path := folder / "b.safetensors", told)
    read(path)


@bounded
@given(data=PICKLES, zipped=st.booleans())
def test_pickles(data: bytes, zipped: bool, folder: Path) -> None:
    (as_zip if zipped else as_legacy)(data)(path := folder / "c.pth")
    read(path)
    assert not Path("ran").exists()


@bounded
@given(data=LISTS)
def test_lists_of_pairs(data: bytes, folder: Path) -> None:
    (path := folder / "fuzzed.jsonl").write_bytes(data)
    try:
        assert load(folder, train_data=path).pairs
    except MessageError as error:
        check(error, path)
    try:
        read_scores(path)
    except ValueError as error:
        check(error, path)


@bounded
@given(data=tables())
def test_toml(data: bytes, folder: Path) -> None:
    (path := folder / "fuzzed.toml").write_bytes(data)
    try:
        load(folder, dataset_config=path)
    except MessageError as error:
        check(error, path)
    try:
        values, *_ = read_config_file(path)
        TrainConfig(**{"pretrained_model_name_or_path": folder, "output_dir": folder, **values})
    except ConfigError as error:
        assert visible(str(error)) == str(error)
        assert missing_parts(QUOTED.sub("", str(error)), str(path)) == [], str(error)
