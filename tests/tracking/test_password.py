"""A server with passwords: strangers get 401, and the one in the address is shown to nobody."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hrnet_ray.tracking import MlflowExperiment
from tests.tracking.runs import begun, found, history, recorded, train
from tests.tracking.serving import serving

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

PASSWORD = "correct-horse-battery"
SETTINGS = """
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/accounts.db
admin_username = otter
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def test_a_stranger_is_refused_and_a_password_in_the_address_is_used_and_kept(tmp_path: Path):
    server, storage = tmp_path / "server", tmp_path / "runs"
    server.mkdir()
    accounts = server / "accounts.ini"
    accounts.write_text(SETTINGS.format(folder=server, password=PASSWORD))
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(accounts), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x"}

    with serving(server, "--app-name", "basic-auth", environment=environment) as port:
        listed = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(listed, timeout=30)
        assert refused.value.code == 401

        uri, folder = f"http://otter:{PASSWORD}@127.0.0.1:{port}", storage / "otters" / "first"
        run = begun(
            MlflowExperiment.open_for_dataset("guarded", storage_dir=storage, tracking_uri=uri),
            folder,
        )
        for epoch in range(3):
            train(folder, epoch)
        run.finish_run("FINISHED")

        (told,) = found(uri, "guarded")
        assert told.info.status == "FINISHED"
        assert history(uri, told.info.run_id) == recorded(folder)
    for path in storage.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
