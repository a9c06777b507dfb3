import base64
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest

from hrnet_ray.doctor.mlflow_server import check_mlflow_server


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A web server on loopback with the responses `server.responses` by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.authorizations.append(self.headers.get("Authorization"))
            body = self.server.responses.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        running.authorizations = []
        running.responses = {"/health": b"OK", "/version": metadata.version("mlflow").encode()}
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def get_url(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_tracking_server_is_ok_and_its_version_is_reported(server: HTTPServer):
    result = check_mlflow_server(get_url(server) + "/")

    assert result.state == "ok"
    assert result.detail.startswith(f"{get_url(server)} answers in 0.")
    assert result.detail.endswith(f" s, version {metadata.version('mlflow')}")


def test_a_password_in_the_url_is_sent_and_not_shown(server: HTTPServer):
    address = get_url(server).replace("://", "://otter:hidden%21word@")

    result = check_mlflow_server(address)

    assert result.state == "ok", result.detail
    assert "hidden" not in str(result)
    assert base64.b64decode(server.authorizations[0].split()[1]) == b"otter:hidden!word"
    server.shutdown()
    server.server_close()
    assert "hidden" not in str(check_mlflow_server(address))


def test_another_major_version_is_reported(server: HTTPServer):
    server.responses["/version"] = b"1.30.0"

    result = check_mlflow_server(get_url(server))

    assert result.state == "careful"
    assert result.detail.endswith(f"version 1.30.0, but the client has {metadata.version('mlflow')}")
    assert result.fix.startswith(f"pip install mlflow=={metadata.version('mlflow')}")


def test_another_web_server_is_reported(server: HTTPServer):
    server.responses["/health"] = b"<html>"

    result = check_mlflow_server(get_url(server))

    assert result.state == "wrong"
    assert result.detail.endswith("/health answers '<html>': not an MLflow server")
    assert result.fix == f"mlflow server --host 127.0.0.1 --port {server.server_port}"


def test_a_server_that_does_not_answer_is_a_timeout():
    start_s = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = check_mlflow_server(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)

    assert result.state == "wrong"
    assert result.detail.endswith(": timed out")
    assert time.monotonic() - start_s < 10


def test_a_closed_port_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    result = check_mlflow_server(f"http://127.0.0.1:{port}")

    assert result.state == "wrong"
    assert "Connection refused" in result.detail


def test_a_server_without_a_health_page_is_reported(server: HTTPServer):
    server.responses.clear()

    assert check_mlflow_server(get_url(server)).detail == f"{get_url(server)}: HTTP Error 404: Not Found"


def test_an_invalid_url_is_reported():
    assert check_mlflow_server("http://127.0.0.1:port").state == "wrong"


def test_only_http_servers_are_checked():
    assert check_mlflow_server("sqlite:///mlflow.db").state == "ok"
    assert check_mlflow_server(None).state == "unasked"
