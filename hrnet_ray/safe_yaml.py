"""YAML from strangers: plain values, small, flat, each key once, and nothing that builds or copies.

PyYAML's own safe loader builds no objects, but it keeps the last of two equal keys in silence, and
resolves aliases, with which a few lines can stand for more text than a machine holds.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from hrnet_ray.errors import DataError

MAX_YAML_BYTES = 64 * 1024
MAX_YAML_DEPTH = 12


def load_safe_yaml(path: Path, *, fix: str, max_bytes: int = MAX_YAML_BYTES) -> dict[str, Any]:
    """The entries of a YAML file.

    Raises:
        DataError: it is not there, too large, no YAML, or more than plain nested values.
    """
    import yaml

    try:
        values = _make_strict_loader_class()(_read_bounded_text(path, max_bytes)).get_single_data()
    # Beside YAMLError: a number of 5,000 digits or a 13th month is a ValueError, not UTF-8 too.
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError("a YAML file that cannot be read", f"{path}: {reason}", fix) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise DataError("a YAML file that is not a list of `name: value` entries", str(path), fix)
    return values


def _read_bounded_text(path: Path, max_bytes: int) -> str:
    if not path.is_file():  # a pipe or a device would never end
        raise OSError("is a folder" if path.is_dir() else "no such file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"larger than {max_bytes:,} bytes")
    return data.decode()


def _make_strict_loader_class() -> Any:
    """A class, made here so that this module costs nothing until a YAML file is read."""
    import yaml

    class StrictYamlLoader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"an alias (*{self.peek_event().anchor}): write it out")
            self.depth += 1
            if self.depth > MAX_YAML_DEPTH:
                raise yaml.YAMLError(f"nested more than {MAX_YAML_DEPTH} deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            if doubled := sorted(key for key, times in keys.items() if times > 1):
                raise yaml.YAMLError(f"entries given twice: {', '.join(doubled)[:80]}")
            return super().construct_mapping(node, deep)

    return StrictYamlLoader
