"""The `hrnet-ray` command: dispatch to a verb, parse its flags, report errors.

Each verb is a module of this package with a dataclass of flags and a function `run(args)`. Only the
module of the given verb is imported, so `hrnet-ray --help` does not load torch.
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
    "prepare": "convert labelled images to a dataset for training",
    "check": "verify a prepared dataset and write a report of its contents",
    "train": "train one model",
    "tune": "search for the best learning rate, heatmap sigma and other settings",
    "evaluate": "score a model on a prepared dataset",
    "promote": "register a run's model and make it the champion if it scores higher",
    "predict": "find keypoints in images and videos",
    "serve": "serve a model over HTTP, with a page for the browser",
    "export": "write a model as ONNX or pt2, for use without this package",
    "mlflow-sync": "send MLflow the records that it missed",
    "demo": "run every step on synthetic tigers, in a few minutes",
    "doctor": "check whether this machine or cluster is ready for a run",
}
RESUMABLE_VERBS = {"prepare", "train", "tune", "mlflow-sync", "demo"}
"""The verbs that resume their work when the same command is run again."""
EXIT_CODE_INTERRUPTED = 130  # 128 + SIGINT
EXIT_CODE_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `hrnet-ray` command and end the process with the verb's exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_format_overview())
        sys.exit(0)
    sys.exit(run_with_error_handling(lambda: _run_verb(argv[0], argv[1:]), resumable=argv[0] in RESUMABLE_VERBS))


def run_script(args_type: Callable[..., T], run: Callable[[T], int | None], *, name: str) -> None:
    """Run an experiment's script and end the process with its exit code."""
    sys.exit(run_with_error_handling(lambda: run(parse_args(args_type, sys.argv[1:], prog=name))))


def run_with_error_handling(work: Callable[[], int | None], *, resumable: bool = True) -> int:
    """Call `work` and return an exit code; print an error of this project as three lines."""
    try:
        return work() or 0
    except HrnetRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe ended: `hrnet-ray check data | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CODE_BROKEN_PIPE
    except KeyboardInterrupt:
        hint = " Run the same command to resume." if resumable else ""
        print(f"Interrupted.{hint}", file=sys.stderr)
        return EXIT_CODE_INTERRUPTED


def parse_args(args_type: Callable[..., T], argv: Sequence[str], *, prog: str) -> T:
    """Parse flags into the dataclass `args_type`.

    Raises:
        UsageError: a flag is unknown (the error names the nearest one) or its value is invalid.
    """
    import tyro

    stderr = io.StringIO()
    try:
        with redirect_stderr(stderr):
            return tyro.cli(args_type, args=list(argv), prog=prog)
    except SystemExit as end:
        if end.code == 0:
            raise
        raise parse_tyro_error(stderr.getvalue(), prog) from None


def _run_verb(name: str, argv: Sequence[str]) -> int | None:
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=1)
        raise UsageError(
            f"unknown verb {name!r}",
            f"hrnet-ray {name}",
            f"did you mean `hrnet-ray {near[0]}`?" if near else f"use one of {', '.join(VERBS)}",
        )
    module = import_module(f"hrnet_ray.cli.{name.replace('-', '_')}")
    args = parse_verb_args(module, argv, prog=f"hrnet-ray {name}")
    return module.run(module.complete_args(args, argv) if hasattr(module, "complete_args") else args)


def parse_verb_args(module: ModuleType, argv: Sequence[str], *, prog: str) -> Any:
    """Parse the flags of a verb; a module may expand short forms first.

    Raises:
        UsageError: see `parse_args`.
    """
    return parse_args(get_args_type(module), getattr(module, "expand_argv", list)(argv), prog=prog)


def get_args_type(module: ModuleType) -> Any:
    """Return the dataclass of a verb's flags: `TrainArgs` of `cli.train`."""
    verb = module.__name__.rpartition(".")[2]
    return getattr(module, f"{verb.title().replace('_', '')}Args")


def _format_overview() -> str:
    verbs = "\n".join(f"  {verb:<13}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: hrnet-ray VERB [flags]      (hrnet-ray VERB --help lists them)\n\n"
        f"{verbs}\n\n"
        "To see all steps at work: hrnet-ray demo"
    )
