"""Tables on the terminal, rendered by rich."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hrnet_ray.text import escape_control_chars

UNLIMITED_WIDTH = 100_000
"""Columns of an output that is no terminal: a file or a pipe gets whole lines."""


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns, cropped to the terminal's width; a pipe or file gets plain text."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(Text(header), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(escape_control_chars(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    console.print(table)
