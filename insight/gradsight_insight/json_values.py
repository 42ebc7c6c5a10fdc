"""Numbers and arrays inside JSON: exact to the last bit, NaN and infinity included."""

import base64
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_KINDS = ("float64", "float32", "int64", "bool")


def packed(value: Any) -> Any:
    """A value of a signal or finding as plain JSON: numbers that JSON lacks as text, arrays as base64."""
    if isinstance(value, np.ndarray):
        return packed_array(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(float(value))}
    return value


def unpacked(value: Any) -> Any:
    """The value that `packed` was given."""
    if isinstance(value, Mapping):
        return float(value["number"]) if "number" in value else unpacked_array(value)
    return value


def packed_fields(value: "DataclassInstance") -> dict[str, Any]:
    """The fields of a flat dataclass as plain JSON values; what it has cached beside them is left out."""
    return {field.name: packed(getattr(value, field.name)) for field in fields(value)}


def unpacked_fields(state: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that gave `state`, for the dataclass's constructor."""
    return {name: unpacked(value) for name, value in state.items()}


def packed_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """The array as plain JSON values: type, shape, and its little-endian bytes in base64.

    Raises:
        ValueError: The type is none of float64, float32, int64 and bool.
    """
    if array.dtype.name not in _KINDS:
        raise ValueError(f"array of {array.dtype.name}, allowed: {', '.join(_KINDS)}")
    # Eight truth values in a byte: an evaluation keeps one per row.
    content = np.packbits(array) if array.dtype == bool else array.astype(array.dtype.newbyteorder("<"))
    return {
        "type": array.dtype.name,
        "shape": list(array.shape),
        "content": base64.b64encode(content.tobytes()).decode("ascii"),
    }


def unpacked_array(value: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The array that gave `value`.

    Raises:
        ValueError: An unknown type, or content that does not fit the shape.
    """
    kind, shape = value["type"], tuple(value["shape"])
    if kind not in _KINDS:
        raise ValueError(f"array of {kind}, allowed: {', '.join(_KINDS)}")
    content = base64.b64decode(value["content"])
    if kind == "bool":
        bits = np.unpackbits(np.frombuffer(content, np.uint8), count=math.prod(shape))
        return bits.astype(bool).reshape(shape)
    return np.frombuffer(content, np.dtype(kind).newbyteorder("<")).astype(kind).reshape(shape)
