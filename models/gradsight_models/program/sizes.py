"""torch's symbolic sizes as arithmetic on the number of rows."""

from typing import Any, Literal

import sympy
from torch.utils._sympy import functions

from gradsight.graph import Size
from gradsight_models.program.errors import ExportError

_TWO: tuple[tuple[Any, Literal["//", "%", "/"]], ...] = (
    (functions.FloorDiv, "//"),
    (functions.CleanDiv, "//"),
    (functions.PythonMod, "%"),
    (functions.Mod, "%"),
    (functions.IntTrueDiv, "/"),
    (functions.FloatTrueDiv, "/"),
)
_MANY: tuple[tuple[Any, Literal["+", "*", "min", "max"]], ...] = (
    (sympy.Add, "+"),
    (sympy.Mul, "*"),
    (functions.Min, "min"),
    (functions.Max, "max"),
    (sympy.Min, "min"),
    (sympy.Max, "max"),
)


def size_of(expression: Any, batch: sympy.Symbol) -> Size | int | float:
    """A symbolic expression as a number or as arithmetic on the number of rows. Raises ExportError for any other."""
    expression = sympy.sympify(expression)
    if expression == batch:
        return Size("batch")
    if expression.is_Integer:
        return int(expression)
    if expression.is_number and expression.is_real:
        return float(expression)
    if isinstance(expression, functions.ToFloat):
        return size_of(expression.args[0], batch)
    for kind, two in _TWO:
        if isinstance(expression, kind):
            return Size(two, tuple(_operand(part, batch) for part in expression.args))
    for kind, many in _MANY:
        if isinstance(expression, kind):
            return Size(many, tuple(_operand(part, batch) for part in expression.args))
    if (
        isinstance(expression, sympy.Pow)
        and expression.args[1].is_Integer
        and 2 <= int(expression.args[1]) <= 8
    ):
        return Size("*", (_operand(expression.args[0], batch),) * int(expression.args[1]))
    if expression.free_symbols - {batch}:
        raise ExportError(
            "a size depends on what the rows hold, not on how many there are (nonzero, unique, a mask as an index); "
            "use torch.where or fixed sizes instead"
        )
    raise ExportError(
        f"the size {str(expression).replace(str(batch), 'batch')} cannot travel; use + * // % min max only"
    )


def _operand(expression: Any, batch: sympy.Symbol) -> Size | int:
    size = size_of(expression, batch)
    if isinstance(size, float):
        raise ExportError(f"the size {expression} mixes fractions with the number of rows; use whole numbers")
    return size
