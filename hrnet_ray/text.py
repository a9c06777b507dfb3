"""Names that come out of files, fit for a terminal, a table, a page."""

import unicodedata


def printable(text: str) -> str:
    r"""In one line: what could move a cursor or turn a line is spelt out.

    `a<newline>b` becomes `a\x0ab`; what is only foreign stays.
    """
    return "".join(c if _is_plain(c) else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> str:
    """The same for a table; a spreadsheet would run a cell that starts like a formula."""
    text = printable(text)
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def _is_plain(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"
