"""What a look found, and a look that neither hangs nor fails."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "careful", "wrong", "unasked"]
"""`careful`: works, but not well, or could not be looked at. `unasked`: a flag would ask for it."""

MOST_SAID = 240
"""Characters of somebody else's message that are worth repeating."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    state: State
    detail: str
    fix: str = ""
    """The command that puts it right; never empty where something is wrong."""


class CouldNotLook(Exception):
    """A look that came to nothing, with the reason."""


def looked(look: Callable[[], Finding], *, limit_s: float) -> Finding:
    """What `look` finds; where it fails or takes longer than `limit_s`, that it could not look.

    A look that hangs (a dead network folder) is left behind in its thread.
    """
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(look())
        except CouldNotLook as error:
            answers.put(Finding("careful", f"could not look: {error}"))
        except Exception as error:  # whatever it is, the other checks must go on
            reason = f"{type(error).__name__}: {in_short(str(error))}"
            answers.put(Finding("careful", f"could not look: {reason}"))

    threading.Thread(target=work, daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return Finding("careful", f"could not look: no answer in {limit_s:g} s")


def in_short(said: str) -> str:
    """Somebody's message in one line."""
    return " ".join(said.split())[:MOST_SAID]


def asked(command: Sequence[str], *, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program, which gets no input and ends after `limit_s`.

    Raises:
        CouldNotLook: it is not there, or did not end in time.
    """
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        name = os.path.basename(command[0])
        raise CouldNotLook(f"{name} gives no answer in {limit_s:g} s") from None
    except OSError as error:
        raise CouldNotLook(f"{command[0]}: {error.strerror}") from None


def python(*arguments: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run this interpreter: what it loads, breaks or hangs on does not stay here.

    Raises:
        CouldNotLook: it did not end in time.
    """
    return asked([sys.executable, *arguments], limit_s=limit_s)


def last_line(said: str) -> str:
    """The last line with text: the message of a traceback, or the answer after chatter."""
    lines = [line for line in said.splitlines() if line.strip()]
    return in_short(lines[-1]) if lines else ""
