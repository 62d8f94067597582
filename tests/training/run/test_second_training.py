"""A second training on the output folder of a running one."""

from __future__ import annotations

from pathlib import Path

import pytest
from siamese_diffusion.training.run.folder import LOCK
from siamese_diffusion.training.train_siamese import main
from support.folder_locks import hold
from support.tiny_runs import flags


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_it_is_refused(
    more: list[str], tiny: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with hold(out, LOCK) as holder:
        assert main(flags(tiny, pairs, out, *more)) == 2
        assert [path.name for path in out.iterdir()] == [LOCK]
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"--output_dir {out}: another training is running in it" in line
    assert f"process {holder.pid} on" in line and "choose another --output_dir" in line
