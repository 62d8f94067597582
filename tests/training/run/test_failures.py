"""What fails beside training does not end it; what fails in a step says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from siamese_diffusion.models.weights import StateDict, read_weights
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.method.objective import Objective
from siamese_diffusion.training.run import reporting
from siamese_diffusion.training.run.failures import is_out_of_memory, memory_advice
from siamese_diffusion.training.run.gradient_update import GradientUpdate
from siamese_diffusion.training.train_siamese import main
from support.small_runs import metrics
from support.tiny_runs import flags, train
from torch import Tensor

pytestmark = pytest.mark.slow  # whole trainings

FULL = "CUDA out of memory. Tried to allocate 20.00 MiB."
DUE_EVERY_STEP = [
    "--train_batch_size=2", "--ema_decay=0.9", "--sample_every_n_steps=1",
    "--validate_every_n_steps=1", "--validation_split=0.34",
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> StateDict:
    return train(tiny, pairs, tmp_path_factory.mktemp("undisturbed"), *DUE_EVERY_STEP)


def assert_equal(found: StateDict, expected: StateDict) -> None:
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(FULL), RuntimeError("cuDNN error"), OSError("no space left")],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_preview_is_a_warning(
    error: Exception,
    undisturbed: StateDict,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(objective: Objective, *_: object) -> Tensor:
        objective.nets.eval()
        raise error

    monkeypatch.setattr(reporting, "sample", fail)
    assert_equal(train(tiny, pairs, tmp_path, *DUE_EVERY_STEP), undisturbed)
    expected = f"Step 1: no preview, since it failed ({type(error).__name__}: {error})."
    assert expected in caplog.text
    assert not list(tmp_path.glob("sample/*"))


def test_a_failing_validation_is_a_warning(
    undisturbed: StateDict,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Failing in the middle of the objective, with the decoder frozen and the EMA's weights in."""
    losses = Objective.losses

    def fail(objective: Objective, *arguments: object) -> object:
        if torch.is_grad_enabled():
            return losses(objective, *arguments)  # type: ignore[arg-type]
        with objective.nets.frozen_decoder():
            raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(Objective, "losses", fail)
    assert_equal(train(tiny, pairs, tmp_path, *DUE_EVERY_STEP), undisturbed)
    assert caplog.text.count("no validation, since it failed (OutOfMemoryError: CUDA") == 3
    assert not [line for line in metrics(tmp_path) if "validation_mask" in line]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(FULL), "out of memory (CUDA out of memory. Tried to allocate"),
        (
            torch.AcceleratorError("CUDA error: out of memory", 2),
            "out of memory (CUDA error: out of memory",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory (",
        ),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
            "the device failed (CUDA error: an illegal memory access",
        ),
    ],
    ids=["full", "full by the driver", "full on a CPU", "illegal access"],
)
def test_a_device_that_fails_in_a_step_ends_the_run_with_one_message(
    error: Exception,
    expected: str,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = flags(tiny, pairs, tmp_path, "--train_batch_size=2", "--save_every_n_steps=1")
    backpropagate = GradientUpdate.backpropagate

    def fail(update: GradientUpdate, loss: Tensor) -> None:
        if update.scheduler.last_epoch == 2:
            raise error
        backpropagate(update, loss)

    with monkeypatch.context() as patch:
        patch.setattr(GradientUpdate, "backpropagate", fail)
        assert main(arguments) == 1
    [line] = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
    assert f"error: step 3: {expected}" in line
    assert f"The last state is kept: {tmp_path / 'state/step00000002'}. The same command" in line
    advised = ["--gradient_checkpointing,", "--mixed_precision bf16", "--optimizer_type AdamW8bit",
               "--train_batch_size 1 --gradient_accumulation_steps 2"]  # fmt: skip
    assert all((text in line) == expected.startswith("out of memory") for text in advised)
    # As the message says.
    assert main([*arguments, "--gradient_checkpointing"]) == 0
    assert read_weights(tmp_path / "siamese.safetensors").tensors


def test_any_other_error_in_a_step_is_not_taken_for_a_devices() -> None:
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match"))


def test_settings_in_use_are_not_advised(tmp_path: Path) -> None:
    config = TrainConfig(
        pretrained_model_name_or_path=tmp_path, output_dir=tmp_path, gradient_checkpointing=True,
        mixed_precision="bf16", train_batch_size=1, optimizer_type="PagedAdamW8bit",
    )  # fmt: skip
    assert memory_advice(config) == "These need less: a smaller --resolution (now 384)."


def test_checkpointing_alone_changes_no_bit(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    """So that a run that has run out of memory may be resumed with it."""
    plain = train(tiny, pairs, tmp_path / "plain", "--train_batch_size=2")
    more = ["--train_batch_size=2", "--gradient_checkpointing"]
    assert_equal(train(tiny, pairs, tmp_path / "checkpointing", *more), plain)
