"""On PYTHONPATH, notes what each Python process connects to, and which programs it starts."""

import json
import os
import sys
from contextlib import suppress
from typing import Any


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        told = str(arguments[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        told = str(arguments[0])
    elif event == "subprocess.Popen":
        told = json.dumps([str(arguments[0]), *map(str, arguments[1])])
    else:
        return
    with suppress(OSError):
        program = os.path.basename(getattr(sys, "argv", [""])[0])
        line = json.dumps([program, event, told]) + "\n"
        file = os.open(os.environ["NOTED_IN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line.encode())
        os.close(file)


sys.addaudithook(_note)
