"""`hrnet-ray VERB`: what a verb takes is a dataclass, what it does is a function.

Each verb has its module here with `Args` and `run(args)`; only the one that is asked for is
imported, so `hrnet-ray --help` costs no torch.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from hrnet_ray.cli.arg_errors import parse_tyro_error
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
    "serve": "a model in the browser, and behind HTTP",
    "export": "write a model as ONNX or pt2, for programs without this package",
    "mlflow-sync": "tell MLflow what it was not told: its server was away, or the run was killed",
    "demo": "the whole path on made-up tigers, in a few minutes",
    "doctor": "look for what would trouble a run on this machine",
}
RESUMABLE_VERBS = {"prepare", "train", "tune", "mlflow-sync", "demo"}
"""Verbs whose repetition begins where the first time ended."""
EXIT_CODE_INTERRUPTED = 130  # what a shell gives for Ctrl-C
EXIT_CODE_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `hrnet-ray` command; ends the process with the verb's exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_format_overview())
        sys.exit(0)
    sys.exit(
        run_with_error_handling(
            lambda: _run_verb(argv[0], argv[1:]), resumable=argv[0] in RESUMABLE_VERBS
        )
    )


def run_script(args_type: Callable[..., T], run: Callable[[T], int | None], *, name: str) -> None:
    """Entry point of an experiment's script: parse, run, and end with its exit code."""
    sys.exit(run_with_error_handling(lambda: run(parse_args(args_type, sys.argv[1:], prog=name))))


def run_with_error_handling(work: Callable[[], int | None], *, resumable: bool = True) -> int:
    """Run, and turn a user's mistake into three lines and its exit code."""
    try:
        return work() or 0
    except HrnetRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `hrnet-ray check data | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CODE_BROKEN_PIPE
    except KeyboardInterrupt:
        hint = "; the same command goes on from here" if resumable else ""
        print(f"stopped{hint}", file=sys.stderr)
        return EXIT_CODE_INTERRUPTED


def parse_args(args_type: Callable[..., T], argv: Sequence[str], *, prog: str) -> T:
    """Read flags into the dataclass `args`.

    Raises:
        UsageError: a flag is unknown (the nearest one is named) or its value does not fit.
    """
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(args_type, args=list(argv), prog=prog)
    except SystemExit as end:
        if end.code == 0:
            raise
        raise parse_tyro_error(said.getvalue(), prog) from None


def _run_verb(name: str, argv: Sequence[str]) -> int | None:
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=1)
        raise UsageError(
            f"no verb {name!r}",
            f"hrnet-ray {name}",
            f"did you mean `hrnet-ray {near[0]}`?" if near else f"use one of {', '.join(VERBS)}",
        )
    module = import_module(f"hrnet_ray.cli.{name.replace('-', '_')}")
    return module.run(parse_args(get_args_type(module), argv, prog=f"hrnet-ray {name}"))


def get_args_type(module: ModuleType) -> Any:
    """The dataclass of a verb's flags: `TrainArgs` of `cli.train`."""
    verb = module.__name__.rpartition(".")[2]
    return getattr(module, f"{verb.title().replace('_', '')}Args")


def _format_overview() -> str:
    verbs = "\n".join(f"  {verb:<13}{what}" for verb, what in VERBS.items())
    return (
        "usage: hrnet-ray VERB [flags]      (hrnet-ray VERB --help lists them)\n\n"
        f"{verbs}\n\n"
        "A first look: hrnet-ray demo"
    )
