"""What tyro says of a command line that it cannot read: what, where, and the fix."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches

from hrnet_ray.errors import UsageError

MIN_SIMILARITY = 0.6
"""Less than this in common, and a flag is not meant."""


def parse_tyro_error(message: str, prog: str) -> UsageError:
    """Tyro's framed message as what, where and fix."""
    blocks = _split_blocks(message)
    by_start = {block.split()[0]: block for block in blocks}
    if found := re.search(r"(?:run:?|see) (.+) --help", " ".join(by_start.get("For", "").split())):
        prog = found[1]  # with the source: hrnet-ray prepare coco
    unknown = _parse_unknown_words(by_start.get("Unrecognized", ""))
    missing, perhaps = (
        _parse_flag_names(by_start.get(start, "")) for start in ("Missing", "Perhaps")
    )
    sources = re.findall(r"\w+", by_start.get("Available", ""))[2:]
    faults = {"unrecognized options": unknown, "missing": missing}
    named = [f"{what}: {', '.join(words)}" for what, words in faults.items() if words]
    what = "; ".join(named) or " ".join(blocks[0].split()).rstrip(".")
    flags = [*missing, *perhaps]
    wrong = [word for word in unknown if word not in flags]  # others are only out of place
    near = [one for word in wrong for one in _find_similar_words(word, flags, sources)]
    fix = _suggest_fix(near or _suggest_choice(what), unknown, help_hint=f"see `{prog} --help`")
    return UsageError(what[:1].lower() + what[1:], prog, fix)


def _suggest_fix(candidates: Sequence[str], unknown: Sequence[str], *, help_hint: str) -> str:
    if candidates:
        return f"did you mean {' or '.join(candidates[:2])}? ({help_hint})"
    if any(word.lower() in ("true", "false") for word in unknown):
        return f"yes is --flag, no is --no-flag ({help_hint})"
    return help_hint


def _split_blocks(message: str) -> list[str]:
    """What stands between the rules below the title; on an ASCII terminal there is no frame."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", message).splitlines()]
    body = lines[1:-1] if lines[0].startswith("╭") else lines[2:]
    return [block.strip() for block in re.split(r"^[─-]{9,}$", "\n".join(body), flags=re.M)]


def _parse_unknown_words(block: str) -> list[str]:
    """Words that nobody asked for; what follows an unknown flag is its value."""
    listed = re.sub(r"\(applied\s+to[^)]*\)", " ", block.partition("\n\n")[0]).partition(":")[2]
    words = re.split(r"[\s,]+", listed.strip()) if listed.strip() else []
    flags = [word for word in words if word.startswith("--")]
    first = words[: words.index(flags[0])] if flags else words
    return [*first, *flags]


def _parse_flag_names(block: str) -> list[str]:
    """The flags of a list, and what is given without one (`DATA`)."""
    return re.findall(r"^--[\w.-]+|^[A-Z]+$", block, flags=re.M)


def _find_similar_words(word: str, flags: Sequence[str], subcommands: Sequence[str]) -> list[str]:
    """What may be meant: of equally near flags, all."""
    if not word.startswith("--"):
        return get_close_matches(word, subcommands, n=1)
    marks = {
        flag: SequenceMatcher(None, *_select_comparable_parts(word, flag)).ratio() for flag in flags
    }
    best = max(marks.values(), default=0.0)
    return [flag for flag, mark in marks.items() if mark == best >= MIN_SIMILARITY]


def _select_comparable_parts(word: str, flag: str) -> tuple[str, str]:
    """Whole flags; their last parts where no group was named (`--num-workers`)."""
    return (word, flag) if "." in word else (word[2:], flag[2:].rpartition(".")[2])


def _suggest_choice(message: str) -> list[str]:
    """The nearest one where a choice is refused."""
    found = re.search(r"invalid choice '(.*)' for .* one of \((.*)\)", message)
    return get_close_matches(found[1], re.findall(r"'([^']*)'", found[2]), n=1) if found else []
