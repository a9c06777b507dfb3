"""Names that come out of files, fit for a terminal, a table, a page."""

import os
import re
import unicodedata
from collections.abc import Mapping

MIN_SECRET_LENGTH = 6
"""Shorter ones are words like `root`: to take them out would spoil the text, and hide nothing."""
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_SECRET_NAME_PATTERN = re.compile(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|(^|_)KEY(_|$)", re.IGNORECASE)


def escape_control_chars(text: str) -> str:
    r"""In one line: what could move a cursor or turn a line is spelt out.

    `a<newline>b` becomes `a\x0ab`; what is only foreign stays.
    """
    return "".join(c if _is_printable_char(c) else c.encode("unicode_escape").decode() for c in text)


def escape_csv_cell(text: str) -> str:
    """The same for a table; a spreadsheet would run a cell that starts like a formula."""
    text = escape_control_chars(text)
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def _is_printable_char(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def redact_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Redact secrets: `user:password@` of addresses, and values of secret settings.

    A setting of the environment is secret by its name: `AWS_SECRET_ACCESS_KEY`,
    `GITHUB_TOKEN`, `MLFLOW_TRACKING_PASSWORD`.
    """
    text = _URL_CREDENTIALS.sub("", text)
    for name, value in environment.items():
        if len(value) >= MIN_SECRET_LENGTH and _SECRET_NAME_PATTERN.search(name) and value in text:
            text = text.replace(value, "***")
    return text
