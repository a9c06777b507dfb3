"""Hostile weights run no code in the preflight checks of a run and in an evaluation."""

from dataclasses import replace

import pytest

from hrnet_ray.cli import main
from hrnet_ray.distributed.training.train import run_preflight_checks
from hrnet_ray.errors import DataError
from tests.hostile_weights import PAYLOADS


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_run_with_hostile_initial_weights_is_refused(payload, tiny, here, tigers, tmp_path):
    file, executed = tmp_path / "weights.pth", tmp_path / "executed"
    PAYLOADS[payload](file, executed)

    with pytest.raises(DataError, match=r"cannot be read safely|match only|holds no weights"):
        run_preflight_checks(replace(tiny, model=replace(tiny.model, pretrained=str(file))), here, tigers)

    assert not executed.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_evaluating_a_hostile_file_ends_with_exit_code_3(payload, tigers, tmp_path, capsys):
    file, executed = tmp_path / "model.safetensors", tmp_path / "executed"
    PAYLOADS[payload](file, executed)
    (tmp_path / "config.json").write_text("{}")

    for model in (file, tmp_path):
        with pytest.raises(SystemExit) as raised:
            main(["evaluate", "--model", str(model), "--data", str(tigers.root)])
        assert raised.value.code == DataError.exit_code

    assert "Traceback" not in capsys.readouterr().err
    assert not executed.exists()
