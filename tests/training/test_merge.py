"""merge_bundle.py: what it merges, and what it refuses with nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from siamese_diffusion.common.hashes import file_hash
from siamese_diffusion.models.kinds import CONTROL, DECODER, UNET, Kind
from siamese_diffusion.models.metadata import FOLDER_HASH, SiameseMetadata, read_metadata
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict, WeightsError, read_weights, write_weights
from siamese_diffusion.training import merge_bundle
from siamese_diffusion.training.hosts.single_file import load_base_model
from support.seeded_weights import made_up_bundle
from support.tiny_base import write_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("merge") / "base.safetensors")


def write_bundle(path: Path, tensors: StateDict, base_hash: str) -> Path:
    metadata = SiameseMetadata(RECIPES["published"], (64, 64), 3, base_hash, {})
    write_weights(path, tensors, metadata.to_strings())
    return path


def bundle_of(base: Path, folder: Path, base_hash: str = "") -> Path:
    """A bundle that says it was trained on `base`, or on what has `base_hash`."""
    tensors = made_up_bundle(read_weights(base).tensors)
    return write_bundle(folder / "bundle.safetensors", tensors, base_hash or file_hash(base))


def merged_base(base: Path, folder: Path) -> Path:
    """A merged checkpoint to train on, with a ControlNet and a decoder of its own."""
    tensors = read_weights(base).tensors
    old = {key: value + 1 for key, value in made_up_bundle(tensors).items()}
    path = folder / "start.safetensors"
    write_weights(path, {**tensors, **old, f"{CONTROL}left.over": torch.ones(1)}, {})
    return path


def merged(base: Path, bundle: Path, folder: Path) -> tuple[int, Path]:
    """Exit code and output of the command."""
    path = folder / "merged.safetensors"
    return merge_bundle.main([str(base), str(bundle), str(path)]), path


@pytest.mark.slow
def test_a_bundle_trained_on_a_merged_checkpoint_replaces_its_control_model(
    base: Path, tmp_path: Path
) -> None:
    start = merged_base(base, tmp_path)
    bundle = bundle_of(start, tmp_path)

    code, path = merged(start, bundle, tmp_path)
    assert code == 0
    found = read_weights(path, expect=[Kind.MERGED]).tensors
    tensors, new = read_weights(base).tensors, read_weights(bundle).tensors
    assert found.keys() == tensors.keys() | new.keys()
    for key, value in found.items():
        assert torch.equal(value, new[key] if key in new else tensors[key]), key


@pytest.mark.slow
def test_training_on_a_merged_checkpoint_says_what_is_not_used(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = merged_base(base, tmp_path)
    with caplog.at_level("INFO"):
        load_base_model(base, None, False)
        assert "control_model" not in caplog.text
        load_base_model(start, None, False)
    assert f"{start}: its control_model is not used" in caplog.text


def test_a_bundle_trained_on_a_folder_merges_with_a_note(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(base, tmp_path, FOLDER_HASH + "f" * 64)
    code, path = merged(base, bundle, tmp_path)
    assert code == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(path)
    for part in ("note: ", str(bundle), str(base), "diffusers folder", "single-file form"):
        assert part in said.err
    assert read_weights(path).kind is Kind.MERGED


def test_a_bundle_of_another_base_of_the_same_shapes_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, key = read_weights(base).tensors, f"{UNET}input_blocks.0.0.weight"
    other = tmp_path / "other.safetensors"
    write_weights(other, {**tensors, key: tensors[key] + 1}, {})
    code, path = merged(other, bundle_of(base, tmp_path), tmp_path)
    assert code == 2
    message = capsys.readouterr().err
    assert file_hash(base) in message
    assert file_hash(other) in message
    assert not path.exists()


@pytest.mark.parametrize(
    ("key", "part"),
    [
        (f"{CONTROL}middle_block.0.in_layers.2.bias", "ControlNet"),
        (f"{CONTROL}input_hint_block.0.layer1.conv1.bias", "ControlNet"),
        (f"{CONTROL}zero_convs.1.0.bias", "ControlNet"),
        (f"{CONTROL}middle_block_out.0.bias", "ControlNet"),
        (f"{DECODER[1]}2.bias", "decoder"),
    ],
)
@pytest.mark.parametrize("harm", ["of another shape", "missing"])
def test_shapes_and_keys_that_do_not_fit_are_refused_where_no_hash_tells(
    base: Path, tmp_path: Path, key: str, part: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(base, tmp_path, FOLDER_HASH + "f" * 64)
    tensors = read_weights(bundle).tensors
    wrong = tensors.pop(key)
    if harm == "of another shape":
        tensors[key] = torch.zeros(len(wrong) + 1)
    write_bundle(bundle, tensors, FOLDER_HASH + "f" * 64)
    code, path = merged(base, bundle, tmp_path)
    assert code == 2
    message = capsys.readouterr().err
    for text in (str(bundle), str(base), part, f"1 {harm}: {key.removeprefix(CONTROL)}"):
        assert text in message
    assert not path.exists()


def test_a_recipe_that_contradicts_the_weights_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four hint channels, under metadata of a recipe with three."""
    tensors = made_up_bundle(read_weights(base).tensors, hint_channels=4)
    bundle = write_bundle(tmp_path / "bundle.safetensors", tensors, file_hash(base))
    code, path = merged(base, bundle, tmp_path)
    assert code == 2
    assert "its recipe needs [3] hint channels; its weights have 4" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("name", ["merged.ckpt", "merged", "merged.pth"])
def test_an_output_that_would_not_be_read_again_is_refused(
    name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / name
    assert merge_bundle.main([str(base), str(bundle_of(base, tmp_path)), str(output)]) == 2
    assert f"{output}: expected a name that ends in .safetensors" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("number", [0, 1])
def test_an_input_is_never_the_output(
    number: int, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [base, bundle_of(base, tmp_path)]
    before = [file_hash(path) for path in inputs]
    (linked := tmp_path / "linked.safetensors").symlink_to(inputs[number])
    for output in (inputs[number], linked):
        assert merge_bundle.main([*map(str, inputs), str(output)]) == 2
        assert f"{output}: is one of the files to merge" in capsys.readouterr().err
    assert [file_hash(path) for path in inputs] == before


def test_a_folder_as_base_is_refused_with_advice(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = merged(tmp_path, bundle_of(base, tmp_path), tmp_path)
    assert code == 2
    assert "a folder; expected a single file" in capsys.readouterr().err
    assert not path.exists()


# What bundles and merged checkpoints say of their base


@pytest.mark.parametrize(
    ("context_dim", "prediction", "expected"),
    [
        (768, "epsilon", "stable-diffusion-v1"),
        (768, "v", "stable-diffusion-v1"),
        (1024, "epsilon", "stable-diffusion-v2-512"),
        (1024, "v", "stable-diffusion-v2-768-v"),
    ],
)
def test_architecture_is_modelspecs_name_of_the_base(
    context_dim: int, prediction: str, expected: str
) -> None:
    metadata = SiameseMetadata(
        RECIPES["published"], (64, 64), 3, "f" * 64, {}, prediction, context_dim=context_dim
    )
    strings = metadata.to_strings()
    assert strings["modelspec.architecture"] == f"{expected}/siamese"
    assert read_metadata(strings, "bundle") == metadata


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"siamese.format_version": "9"}, "newer version of this pack .*Update"),
        ({"siamese.recipe": "{}}"}, "damaged metadata .*Train or copy it again"),
        ({"siamese.resolution": "large"}, "damaged metadata"),
    ],
)
def test_metadata_that_cannot_be_read_is_an_error(changed: dict[str, str], message: str) -> None:
    metadata = SiameseMetadata(RECIPES["published"], (64, 64), 3, "f" * 64, {})
    with pytest.raises(WeightsError, match=f"bundle: .*{message}"):
        read_metadata({**metadata.to_strings(), **changed}, "bundle")
