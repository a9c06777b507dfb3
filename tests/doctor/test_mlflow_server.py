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
    """A web server on loopback that answers what `server.said` holds for a path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.sent.append(self.headers.get("Authorization"))
            said = self.server.said.get(self.path)
            self.send_response(404 if said is None else 200)
            self.end_headers()
            self.wfile.write(said or b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        running.sent = []
        running.said = {"/health": b"OK", "/version": metadata.version("mlflow").encode()}
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def at(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_tracking_server_that_answers_is_well_and_tells_its_version(server: HTTPServer):
    found = check_mlflow_server(at(server) + "/")

    assert found.state == "ok"
    assert found.detail.startswith(f"{at(server)} answers in 0.")
    assert found.detail.endswith(f" s, version {metadata.version('mlflow')}")


def test_a_password_in_the_address_is_sent_and_not_shown(server: HTTPServer):
    address = at(server).replace("://", "://otter:hidden%21word@")

    found = check_mlflow_server(address)

    assert found.state == "ok", found.detail
    assert "hidden" not in str(found)
    assert base64.b64decode(server.sent[0].split()[1]) == b"otter:hidden!word"
    server.shutdown()
    server.server_close()
    assert "hidden" not in str(check_mlflow_server(address))


def test_a_server_of_another_major_version_is_told(server: HTTPServer):
    server.said["/version"] = b"1.30.0"

    found = check_mlflow_server(at(server))

    assert found.state == "careful"
    assert found.detail.endswith(f"version 1.30.0, but here is {metadata.version('mlflow')}")
    assert found.fix.startswith(f"pip install mlflow=={metadata.version('mlflow')}")


def test_a_web_server_that_is_no_tracking_server_is_told(server: HTTPServer):
    server.said["/health"] = b"<html>"

    found = check_mlflow_server(at(server))

    assert found.state == "wrong"
    assert found.detail.endswith("/health answers '<html>': no MLflow server")
    assert found.fix == f"mlflow server --host 127.0.0.1 --port {server.server_port}"


def test_a_server_that_never_answers_is_left_after_the_wait():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = check_mlflow_server(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)

    assert found.state == "wrong"
    assert found.detail.endswith(": timed out")
    assert time.monotonic() - began < 10


def test_a_closed_port_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    found = check_mlflow_server(f"http://127.0.0.1:{port}")

    assert found.state == "wrong"
    assert "Connection refused" in found.detail


def test_a_server_without_that_page_is_told(server: HTTPServer):
    server.said.clear()

    assert check_mlflow_server(at(server)).detail == f"{at(server)}: HTTP Error 404: Not Found"


def test_an_address_that_is_none_is_told():
    assert check_mlflow_server("http://127.0.0.1:port").state == "wrong"


def test_only_a_server_is_asked():
    assert check_mlflow_server("sqlite:///mlflow.db").state == "ok"
    assert check_mlflow_server(None).state == "unasked"
