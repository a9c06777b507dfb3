"""A server on loopback that speaks S3, as MinIO and AWS do; started once per session."""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

# Set when a test module is collected, so before Ray starts: its processes have the same.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # nobody is asked for another identity
}


@contextmanager
def served() -> Iterator[str]:
    """Start a server on a free port, and give its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


def new_bucket(address: str) -> str:
    """Make a bucket, and give the URI of a folder in it, to which names can be added."""
    from pyarrow.fs import S3FileSystem

    bucket = f"poses-{uuid.uuid4().hex[:8]}"
    files = S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True)
    files.create_dir(bucket)
    return bucket


def uri(bucket: str, path: str, address: str) -> str:
    return f"s3://{bucket}/{path}?endpoint_override={address}&scheme=http"
