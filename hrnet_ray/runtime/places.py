"""Folders of this machine that belong to no run."""

import os
from pathlib import Path

OWN_RAY = Path(f"/tmp/hrnet_ray-{os.getuid()}")
"""Of a Ray that a command starts for itself; short, because a socket's path may have 107 bytes."""
