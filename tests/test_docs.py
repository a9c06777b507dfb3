"""What README and docs/ tell a user to type can be typed, and what they point to is there."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from hrnet_ray.cli import VERBS, parse_verb_args
from hrnet_ray.errors import UsageError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = [
    "hrnet_ray/config.py",
    "hrnet_ray/distributed/tuning/search_config.py",
    "hrnet_ray/cli/*.py",
]
SCRIPTS = ["benchmarks/*.py", "experiments/*.py"]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


@dataclass(frozen=True)
class Command:
    """A line that a page shows, without its program."""

    page: str
    words: tuple[str, ...]
    whole: bool
    """It stands in a block of its own; in a sentence, what is required may be left out."""

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def commands(program: str) -> list[Command]:
    """All lines that begin with a program."""
    found: list[Command] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "".join(FENCED.findall(text)).replace("\\\n", " ").splitlines()
        for lines, whole in ((blocks, True), (in_sentences(text), False)):
            words = [shlex.split(x, comments=True) for x in lines if x.startswith(f"{program} ")]
            found += [Command(page.name, tuple(more), whole) for _, *more in words]
    return list(dict.fromkeys(found))


def in_sentences(text: str) -> list[str]:
    """What stands between two backticks."""
    return re.findall(r"`([^`]+)`", FENCED.sub("", text))


@pytest.mark.parametrize("command", commands("hrnet-ray"), ids=lambda command: str(command)[:100])
def test_a_command_of_ours_is_understood(command: Command):
    verb, *words = command.words
    if verb == "--help":
        return
    assert verb in VERBS
    if words or command.whole:
        module = import_module(f"hrnet_ray.cli.{verb.replace('-', '_')}")
        said = None if command.whole else "missing"
        assert refusal(module, words) in (None, said)


def refusal(module: ModuleType, words: list[str]) -> str | None:
    """The first word of what is wrong with a command line, if something is."""
    try:
        parse_verb_args(module, words, prog="docs")
    except UsageError as error:
        return error.what.split(":")[0].split()[0]
    return None


@pytest.mark.parametrize("command", commands("python"), ids=str)
def test_a_script_is_there_and_knows_its_flags(command: Command):
    script, *words = command.words
    if script == "-m":
        script = f"{words.pop(0).replace('.', '/')}.py"
    assert (ROOT / script).is_file()
    assert set(FLAG.findall(" ".join(words))) <= known_flags(script)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_flag_in_a_sentence_is_one_of_ours(page: Path):
    said = [s for s in in_sentences(page.read_text(encoding="utf-8")) if s.startswith("--")]
    for flag in FLAG.findall(" ".join(said)):
        known = flag in known_flags(*SCRIPTS)
        parts = flag.removeprefix("--").rstrip(".").replace("-", "_").split(".")
        names = {part.removeprefix("no_") for part in parts}
        assert known or names <= names_of_settings(), flag


@pytest.mark.parametrize("command", commands("make"), ids=str)
def test_make_knows_its_target(command: Command):
    assert re.search(rf"^{command.words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@cache
def known_flags(*patterns: str) -> set[str]:
    """Flags that scripts name, and fields of their arguments."""
    return set(FLAG.findall(sources(*patterns))) | {
        f"--{name.replace('_', '-')}" for name in fields(sources(*patterns))
    }


@cache
def names_of_settings() -> set[str]:
    """Fields of settings and of the verbs' arguments."""
    return fields(sources(*SETTINGS))


def fields(source: str) -> set[str]:
    """Names that stand, with a type, at the beginning of a line of a class."""
    return set(re.findall(r"^    (\w+): ", source, re.MULTILINE))


def sources(*patterns: str) -> str:
    """The text of all files."""
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path):
    for path, anchor in links(page):
        there = (page.parent / path) if path else page
        assert there.exists(), path
        assert not anchor or anchor in anchors(there), f"{path}#{anchor}"


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of what a page links to in this repository."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}
