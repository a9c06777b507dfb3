"""Hostile weights run nothing where a run is made ready, and where a model is evaluated."""

from dataclasses import replace

import pytest

from hrnet_ray.cli import main
from hrnet_ray.distributed.training.train import run_preflight_checks
from hrnet_ray.errors import DataError
from tests.hostile_weights import PAYLOADS


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_run_that_would_start_from_hostile_weights_is_refused(
    payload, tiny, here, tigers, tmp_path
):
    file, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    PAYLOADS[payload](file, sprung)

    with pytest.raises(DataError, match=r"can be read safely|fit only|holds no weights"):
        run_preflight_checks(replace(tiny, model=replace(tiny.model, pretrained=str(file))), here, tigers)

    assert not sprung.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_evaluating_a_hostile_file_ends_with_exit_code_3(payload, tigers, tmp_path, capsys):
    file, sprung = tmp_path / "model.safetensors", tmp_path / "sprung"
    PAYLOADS[payload](file, sprung)
    (tmp_path / "config.json").write_text("{}")

    for model in (file, tmp_path):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "--model", str(model), "--data", str(tigers.root)])
        assert ended.value.code == DataError.exit_code

    assert "Traceback" not in capsys.readouterr().err
    assert not sprung.exists()
