"""Shorten tyro's error text to the three lines of a UsageError."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from textwrap import dedent

from hrnet_ray.errors import UsageError

KNOWN_WORD_BLOCKS = ("Missing", "Perhaps", "Arguments", "Available")
"""First words of the blocks that list flags or subcommands."""


def parse_tyro_error(message: str, prog: str) -> UsageError:
    """Extract what is wrong, in which command, and the known word that is nearest to it."""
    blocks = _split_blocks(message)
    if help_command := re.search(r"(?:run:?|see) (.+) --help", " ".join(map(str.strip, blocks[-1]))):
        prog = help_command[1]  # with the subcommand: `hrnet-ray prepare coco`
    unrecognized = [block for block in blocks if block[0].startswith("Unrecognized")]
    problems = unrecognized if blocks[0] in unrecognized else [blocks[0], *unrecognized]
    what = "; ".join(map(_to_one_line, problems)).rstrip(".")
    choices = re.findall(r"'([^']*)'", what.partition("Expected one of")[2])
    listed = [_list_items(block) for block in blocks if block[0].startswith(KNOWN_WORD_BLOCKS)]
    known = [*choices, *(word for words in listed for word in words)]
    wrong = re.findall(r"invalid choice '(.*?)'", what)
    wrong += [word for block in unrecognized for word in _list_items(block)]
    return UsageError(what, prog, _suggest_fix(wrong, known, prog))


def _suggest_fix(wrong: Sequence[str], known: Sequence[str], prog: str) -> str:
    see_help = f"see `{prog} --help`"
    for word in wrong:
        if word not in known and (similar := _find_similar(word, known)):
            return f"did you mean {similar}? ({see_help})"
    if any(word in ("True", "False", "true", "false") for word in wrong):
        return f"write --flag for yes, --no-flag for no ({see_help})"
    return see_help


def _find_similar(word: str, known: Sequence[str]) -> str | None:
    """Return the nearest known word; a flag without its group is compared to the last parts."""
    names = {name if "." in word else re.sub(r"^--.*\.", "--", name): name for name in known}
    return next((names[match] for match in get_close_matches(word, names, n=1)), None)


def _split_blocks(message: str) -> list[list[str]]:
    """Return the lines of each block of tyro's box: its first paragraph, without the frame."""
    text = re.sub(r"\x1b\[[0-9;]*m|^│|│$", "", message, flags=re.MULTILINE)
    blocks = re.split(r"^.*[─-]{9,}.*$", text, flags=re.MULTILINE)[1:]
    return [dedent(block).strip().split("\n\n")[0].splitlines() for block in blocks if block.strip()]


def _list_items(block: Sequence[str]) -> list[str]:
    """Return the words of `Heading: a, b`, or the first word of each indented line."""
    inline = " ".join(line for line in block if line[0] != " ").partition(":")[2].strip()
    if inline:
        return re.split(r",\s*", inline)
    return [line.split()[0].rstrip(",") for line in block if re.match(r" {1,4}\S", line)]


def _to_one_line(block: Sequence[str]) -> str:
    heading = " ".join(line.strip() for line in block if line[0] != " ")
    if heading.startswith("Unrecognized"):
        heading = heading.partition(":")[0] + ":"
        items = _drop_flag_values(_list_items(block))
    else:
        items = _list_items(block) if heading.endswith(":") else []
    return f"{heading[:1].lower()}{heading[1:]} {', '.join(items)}".strip()


def _drop_flag_values(words: Sequence[str]) -> list[str]:
    """Leave out what follows a flag: the value of an unknown flag is no second mistake."""
    previous = ["", *words]
    return [
        word
        for word, before in zip(words, previous, strict=False)
        if word.startswith("-") or not before.startswith("-")
    ]
