"""The errors a user can meet: what went wrong, where by name, and the way out.

Each is three short strings, printed as three lines without a traceback, and has its exit code.
"""

from hrnet_ray.text import escape_control_chars


class HrnetRayError(Exception):
    """A mistake that a user can put right. Raise one of its children."""

    exit_code = 1

    def __init__(self, what: str, where: str, fix: str) -> None:
        # All three go to Exception's args, so that the error survives the pickling between
        # Ray's processes.
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        # Names from files are in there: they turn no line, and move no cursor.
        what, where, fix = map(escape_control_chars, (self.what, self.where, self.fix))
        return f"{what}\n  {where}\n  fix: {fix}"


class UsageError(HrnetRayError):
    """A setting or a flag that cannot be."""

    exit_code = 2


class DataError(HrnetRayError):
    """An image, an annotation, a shard or a weight file that cannot be used."""

    exit_code = 3


class ClusterError(HrnetRayError):
    """Something that the machines do not have, or a storage that does not work."""

    exit_code = 4


class TrainingDivergedError(HrnetRayError):
    """A loss that is no longer a number."""

    exit_code = 5


def format_list(names: list[str], *, max_items: int = 3) -> str:
    """Name the first few of many: `a.jpg, b.jpg, c.jpg and 7 more`."""
    rest = len(names) - max_items
    return ", ".join(names[:max_items]) + (f" and {rest:,} more" if rest > 0 else "")
