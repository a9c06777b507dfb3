"""What a model, an optimizer or an average remembers: mappings of mappings of tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def iter_tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in there, however deep."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from iter_tensors(value)
