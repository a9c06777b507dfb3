import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hrnet_ray.cli import doctor as verb
from hrnet_ray.runtime import doctor
from hrnet_ray.runtime.doctor import Finding


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that everybody may enter, as a home often is; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def write_token(home: Path, *, mode: int) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o755)
    path.write_text("secret")
    path.chmod(mode)
    return path


def test_a_private_token_with_the_mode_set_is_well(home: Path):
    write_token(home, mode=0o600)

    found = doctor.token({"RAY_AUTH_MODE": "token"}, home)

    assert found == Finding("token", True, "set and private")


def test_a_token_that_others_can_read_is_named_with_the_command_that_closes_it(home: Path):
    path = write_token(home, mode=0o644)

    found = doctor.token({"RAY_AUTH_MODE": "token"}, home)

    assert found == Finding(
        "token", False, f"{path} has mode 0644: others can read it", f"chmod 600 {path}"
    )


def test_a_token_with_an_open_mode_in_a_closed_home_is_private(home: Path):
    write_token(home, mode=0o644)
    home.chmod(0o700)

    assert doctor.token({"RAY_AUTH_MODE": "token"}, home).ok is True


def test_token_mode_without_a_token_is_broken(home: Path):
    found = doctor.token({"RAY_AUTH_MODE": "token"}, home)

    assert found.ok is False
    assert found.fix == f"ray get-auth-token --generate && chmod 600 {home}/.ray/auth_token"


@pytest.mark.parametrize(
    ("environment", "ok"),
    [
        ({}, True),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}, True),
        ({"RAY_AUTH_TOKEN": "secret"}, None),  # forgotten on the client: a cluster refuses it
        ({"RAY_AUTH_MODE": "disabled"}, None),
        ({"RAY_AUTH_MODE": "tokens"}, False),
    ],
)
def test_mode_and_token_must_agree(environment: dict[str, str], ok: bool | None, home: Path):
    assert doctor.token(environment, home).ok is ok


def test_the_token_file_may_be_elsewhere(home: Path):
    path = home / "other"
    path.write_text("secret")
    path.chmod(0o600)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}

    assert doctor.token(environment, home).detail == "set and private"


def test_a_package_outside_its_range_names_both():
    found = doctor.package(Requirement("packaging>=9999"))

    version = doctor.metadata.version("packaging")
    assert found == Finding(
        "packaging", False, f"{version}, wanted >=9999", "pip install 'packaging>=9999'"
    )


def test_a_package_that_is_not_there_is_named():
    found = doctor.package(Requirement("no-such-package>=1"))

    assert found == Finding(
        "no-such-package", False, "not installed", "pip install 'no-such-package>=1'"
    )


def test_another_python_than_asked_for_is_broken():
    assert doctor.python_version(SpecifierSet(">=3.11")).ok is True
    assert doctor.python_version(SpecifierSet("<3")).ok is False


def test_two_opencv_wheels_are_a_conflict():
    found = doctor.one_wheel(["opencv-python", "opencv-contrib-python"])

    assert found == Finding(
        "opencv wheels",
        False,
        "they share one folder: opencv-python, opencv-contrib-python",
        "pip uninstall -y opencv-python opencv-contrib-python && pip install opencv-python",
    )
    assert doctor.one_wheel(["opencv-python"]).ok is True
    assert doctor.one_wheel([]).fix == "pip install opencv-python"


def test_a_storage_below_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")

    found = doctor.writable(tmp_path / "file" / "runs")

    assert (found.name, found.ok) == ("storage", False)
    assert found.detail == f"{tmp_path / 'file'}: Not a directory"


def test_looking_at_a_missing_storage_does_not_make_it(tmp_path: Path):
    found = doctor.writable(tmp_path / "runs")

    assert found == Finding("storage", True, f"{tmp_path} can be written")
    assert list(tmp_path.iterdir()) == []


def test_a_container_limit_is_read_in_bytes(tmp_path: Path):
    (tmp_path / "memory.current").write_text("300\n")

    (tmp_path / "memory.max").write_text("1000\n")
    assert doctor._container_limit(tmp_path) == (1000, 700)

    (tmp_path / "memory.max").write_text("max\n")
    assert doctor._container_limit(tmp_path) is None


def test_few_open_files_are_worth_a_warning():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        found = doctor.open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert found.ok is None
    assert found.detail == "ulimit -n is 1,000, Ray wants 4,096"


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A web server on loopback; its /health answers what `server.said` holds."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(self.server.said)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        running.said = b"OK"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_tracking_server_that_answers_is_well(server: HTTPServer):
    uri = f"http://127.0.0.1:{server.server_port}"

    assert doctor.tracking(uri).ok is True
    assert doctor.tracking(uri + "/").detail.startswith(f"{uri}/ answers in 0.")


def test_a_web_server_that_is_no_tracking_server_is_told(server: HTTPServer):
    server.said = b"<html>"

    found = doctor.tracking(f"http://127.0.0.1:{server.server_port}")

    assert found.ok is False
    assert found.detail.endswith("/health answers '<html>': no MLflow server")


def test_a_server_that_never_answers_is_left_after_the_wait():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = doctor.tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", wait_s=0.1)

    assert found.ok is False
    assert found.detail.endswith("/health: timed out")


def test_a_closed_port_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    found = doctor.tracking(f"http://127.0.0.1:{port}")

    assert found.ok is False
    assert "Connection refused" in found.detail


def test_a_database_file_is_no_server_to_ask():
    assert doctor.tracking("sqlite:///mlflow.db").ok is True


def test_an_examination_asks_no_network_and_loads_neither_ray_nor_mlflow(tmp_path: Path):
    code = (
        "import sys, pathlib\n"
        "def refuse(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): raise SystemExit(event)\n"
        "sys.addaudithook(refuse)\n"
        "from hrnet_ray.runtime.doctor import examine\n"
        f"found = examine(pathlib.Path({str(tmp_path)!r}), None)\n"
        "assert all(f.fix for f in found if f.ok is False), found\n"
        "assert len({f.name for f in found}) == len(found), found\n"
        "print(sorted({'ray', 'mlflow'} & set(sys.modules)), 'MLflow' in {f.name for f in found})"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "[] False\n", done.stderr


def test_each_finding_is_a_line_and_its_fix_the_next():
    findings = [
        Finding("CPUs", True, "2", "never said"),
        Finding("open files", None, "few", "ulimit -n 65536"),
        Finding("cv2", False, "no libGL", "apt-get install -y libgl1"),
    ]

    assert verb.as_lines(findings) == (
        "ok    CPUs        2\n"
        "warn  open files  few\n"
        "                  fix: ulimit -n 65536\n"
        "FIX   cv2         no libGL\n"
        "                  fix: apt-get install -y libgl1"
    )


def test_something_broken_ends_the_verb_with_4(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")

    assert verb.run(verb.Args(storage=tmp_path / "file" / "runs")) == 4
    assert f"FIX   storage          {tmp_path / 'file'}: Not a directory\n" in (
        capsys.readouterr().out
    )
