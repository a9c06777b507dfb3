"""Connection test of the head node."""

import socket

from hrnet_ray.distributed.cluster.head_monitor import _can_connect


def test_a_head_node_accepts_connections_until_it_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        assert _can_connect(address)

    assert not _can_connect(address)
