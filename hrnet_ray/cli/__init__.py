"""`hrnet-ray VERB`: what a verb takes is a dataclass, what it does is a function.

Each verb has its module here with `Args` and `run(args)`; only the one that is asked for is
imported, so `hrnet-ray --help` costs no torch.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from importlib import import_module
from typing import TypeVar

from hrnet_ray.errors import HrnetRayError, UsageError

T = TypeVar("T")

VERBS = {
    "prepare": "labelled pictures -> a data set to train on",
    "check": "look at a prepared data set: counts, sheets, what was left out",
    "train": "train one model",
    "tune": "search learning rate, sigma and other settings",
    "evaluate": "score a model on a prepared data set",
    "promote": "register a run's model, and make it the champion if it is better",
    "predict": "find keypoints on your pictures",
    "mlflow-sync": "tell MLflow what it was not told: its server was away, or the run was killed",
    "demo": "the whole path on made-up tigers, in a few minutes",
    "doctor": "look for what would trouble a run on this machine",
}
GO_ON = {"prepare", "train", "tune", "mlflow-sync", "demo"}
"""Verbs whose repetition begins where the first time ended."""
INTERRUPTED = 130  # what a shell gives for Ctrl-C
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `hrnet-ray` command; ends the process with the verb's exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    sys.exit(guarded(lambda: _verb(argv[0], argv[1:]), goes_on=argv[0] in GO_ON))


def start(args: Callable[..., T], run: Callable[[T], int | None], *, name: str) -> None:
    """Entry point of an experiment's script: parse, run, and end with its exit code."""
    sys.exit(guarded(lambda: run(parse(args, sys.argv[1:], prog=name))))


def guarded(work: Callable[[], int | None], *, goes_on: bool = True) -> int:
    """Run, and turn a user's mistake into three lines and its exit code."""
    try:
        return work() or 0
    except HrnetRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `hrnet-ray check data | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        hint = "; the same command goes on from here" if goes_on else ""
        print(f"stopped{hint}", file=sys.stderr)
        return INTERRUPTED


def parse(args: Callable[..., T], argv: Sequence[str], *, prog: str) -> T:
    """Read flags into the dataclass `args`.

    Raises:
        UsageError: a flag is unknown (the nearest one is named) or its value does not fit.
    """
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(args, args=list(argv), prog=prog)
    except SystemExit as end:
        if end.code == 0:
            raise
        raise _in_three_lines(said.getvalue(), prog) from None


def _verb(name: str, argv: Sequence[str]) -> int | None:
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=1, cutoff=0.4)
        raise UsageError(
            f"no verb {name!r}",
            f"hrnet-ray {name}",
            f"did you mean `hrnet-ray {near[0]}`?" if near else f"use one of {', '.join(VERBS)}",
        )
    module = import_module(f"hrnet_ray.cli.{name.replace('-', '_')}")
    return module.run(parse(module.Args, argv, prog=f"hrnet-ray {name}"))


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<13}{what}" for verb, what in VERBS.items())
    return (
        "usage: hrnet-ray VERB [flags]      (hrnet-ray VERB --help lists them)\n\n"
        f"{verbs}\n\n"
        "A first look: hrnet-ray demo"
    )


def _in_three_lines(said: str, prog: str) -> UsageError:
    """Tyro's framed message as what, where and fix."""
    blocks = _blocks(said)
    by_start = {block.split()[0]: block for block in blocks}
    if found := re.search(r"(?:run:?|see) (.+) --help", " ".join(by_start.get("For", "").split())):
        prog = found[1]  # with the source: hrnet-ray prepare coco
    unknown = re.split(r"[\s,]+", by_start.get("Unrecognized", ""))[2:]
    missing, near = (_flags(by_start.get(start, "")) for start in ("Missing", "Perhaps"))
    sources = re.findall(r"\w+", by_start.get("Available", ""))[2:]
    for word in unknown:
        near += get_close_matches(word, [*missing, *sources], n=1)
    faults = {"unrecognized options": unknown, "missing": missing}
    named = [f"{what}: {', '.join(words)}" for what, words in faults.items() if words]
    what = "; ".join(named) or " ".join(blocks[0].split()).rstrip(".")
    see = f"see `{prog} --help`"
    fix = f"did you mean {near[0]}? ({see})" if near else see
    return UsageError(what[:1].lower() + what[1:], prog, fix)


def _blocks(said: str) -> list[str]:
    """What stands between the rules below the title; on an ASCII terminal there is no frame."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()]
    body = lines[1:-1] if lines[0].startswith("╭") else lines[2:]
    return [block.strip() for block in re.split(r"^[─-]{9,}$", "\n".join(body), flags=re.M)]


def _flags(block: str) -> list[str]:
    return re.findall(r"^--[\w.-]+", block, flags=re.M)
