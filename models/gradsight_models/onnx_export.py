"""A model as ONNX: from encoded inputs to scores, for whoever runs it without torch."""

import copy
import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from gradsight_models.columns import Column
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.rows import example_chunk


def example_inputs(columns: Sequence[Column], preprocessing: Preprocessing) -> tuple[Tensor, ...]:
    """Inputs of the right shapes that say nothing: two rows, for one row would be taken for the only size there is.

    Raises ValueError where the preprocessing cannot read rows of zeros and empty texts.
    """
    return preprocessing.encode(example_chunk(columns)).inputs


def export_onnx(module: nn.Module, inputs: Sequence[Tensor], path: Path) -> Path:
    """Write the module in evaluation mode, for any number of rows; the module itself is left as it is.

    Args:
        module: On any device.
        inputs: Examples, rows first, at least two rows.
        path: Of the file, which is whole or not there.

    Raises:
        ValueError: The module has an operation that ONNX does not, or the extra `onnx` is not installed.
    """
    answering = copy.deepcopy(module).cpu().eval()
    examples = tuple(part.detach().cpu() for part in inputs)
    rows = torch.export.Dim("rows")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                answering,
                examples,
                dynamo=True,
                dynamic_shapes=[{0: rows} for _ in examples],
                input_names=_input_names(module, len(examples)),
                output_names=["scores"],
                verbose=False,
            )
            assert program is not None
            scratch = path.with_name(path.name + ".tmp")
            program.save(scratch, external_data=False)
    except ImportError as error:
        raise ValueError(
            f"onnx: got a worker without the extra `onnx` ({error}), allowed: pip install 'gradsight[onnx]'"
        ) from error
    except Exception as error:  # the exporter raises whatever the step at fault raises
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(
            f"onnx: got a model that cannot be said in ONNX ({reason}); leave `onnx` out"
        ) from error
    with scratch.open("rb+") as file:
        os.fsync(file.fileno())
    return scratch.rename(path)


def _input_names(module: nn.Module, count: int) -> list[str]:
    """Those of `forward`, where it has as many."""
    names = list(inspect.signature(module.forward).parameters)
    return names if len(names) == count else [f"input_{number}" for number in range(count)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own doings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
