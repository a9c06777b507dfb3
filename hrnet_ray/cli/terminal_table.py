"""Tables on the terminal.

`rich.table` is not used: on a narrow terminal it shrinks all columns, so that a long last column
reduces the scores in the first one to an ellipsis.
"""

import shutil
import sys
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from hrnet_ray.text import escape_control_chars


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns: cropped to the width of a terminal, whole in a file or pipe."""
    cells = [[escape_control_chars(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(map(set_cell_size, row, widths))
        if sys.stdout.isatty():
            line = set_cell_size(line, shutil.get_terminal_size().columns)
        print(line.rstrip())
