import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrnet_ray.doctor.ray_token import check_ray_token
from hrnet_ray.doctor.result import CheckResult


@pytest.fixture
def home() -> Iterator[Path]:
    """A home folder with mode 0755; the folders of pytest have mode 0700."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def write_token(home: Path, *, mode: int) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o755)
    path.write_text("secret")
    path.chmod(mode)
    return path


def test_a_private_token_with_the_mode_set_is_ok(home: Path):
    write_token(home, mode=0o600)

    assert check_ray_token({"RAY_AUTH_MODE": "token"}, home) == CheckResult("ok", "set and private")


def test_a_readable_token_is_reported_with_a_chmod_command(home: Path):
    path = write_token(home, mode=0o644)

    result = check_ray_token({"RAY_AUTH_MODE": "token"}, home)

    detail = f"{path} has mode 0644: other users can read it"
    assert result == CheckResult("wrong", detail, f"chmod 600 {path}")


def test_a_readable_token_in_a_closed_home_is_private(home: Path):
    write_token(home, mode=0o644)
    home.chmod(0o700)

    assert check_ray_token({"RAY_AUTH_MODE": "token"}, home).state == "ok"


def test_token_mode_without_a_token_is_wrong(home: Path):
    result = check_ray_token({"RAY_AUTH_MODE": "token"}, home)

    assert result.state == "wrong"
    assert result.fix == f"ray get-auth-token --generate && chmod 600 {home}/.ray/auth_token"


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}, "ok"),
        ({"RAY_AUTH_TOKEN": "secret"}, "careful"),  # without the mode, a cluster refuses the client
        ({"RAY_AUTH_MODE": "disabled"}, "careful"),
        ({"RAY_AUTH_MODE": "tokens"}, "wrong"),
    ],
)
def test_mode_and_token_must_agree(environment: dict[str, str], state: str, home: Path):
    assert check_ray_token(environment, home).state == state


def test_the_token_file_may_have_another_path(home: Path):
    path = home / "other"
    path.write_text("secret")
    path.chmod(0o600)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}

    assert check_ray_token(environment, home).detail == "set and private"
