"""From prepared rows to a model with its first weights."""

import torch
from torch import nn

from gradsight_models import (
    Layer,
    example_inputs,
    export_onnx,
    layers_of,
    load_state,
    normalizes_over_batches,
    state_of,
)
from gradsight_worker.training.data.batches import derive_seed
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import TrainingPlan
from gradsight_worker.training.preparation import Prepared
from gradsight_worker.training.randomness import random_state, restore_random_state, seed_everything


def build_model(prepared: Prepared, plan: TrainingPlan) -> tuple[nn.Module, list[Layer]]:
    """The model in training mode on its device, and its layers.

    Its weights come from the seed, the program or the job to start from; the generators go on from there: dropout's.
    Raises TrainingFailed when model and rows do not fit each other.
    """
    seed_everything(derive_seed(plan.spec.seed, "model"), prepared.device)
    field = f"model.{plan.spec.model.WhichOneof('kind')}"
    try:
        # On the processor, so that the device does not change the numbers.
        model = prepared.source.build(prepared.preprocessing, prepared.outputs)
    except (ValueError, OSError) as error:
        raise TrainingFailed.by_spec(f"the model does not fit these rows: {error}", field=field) from error
    if prepared.start is not None:
        load_state(model, state_of(prepared.start.module))
    _require_float32(model, field)
    _require_rows_for_batch_norm(model, prepared, plan)
    if plan.spec.result.onnx:
        _require_onnx(model, prepared, plan)
    return model.to(prepared.device).train(), layers_of(model)


def _require_float32(model: nn.Module, field: str) -> None:
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not trainable:
        raise TrainingFailed.by_spec(
            "every parameter is frozen (requires_grad is false); nothing can be learnt", field=field
        )
    for name, value in trainable.items():
        if value.dtype != torch.float32:
            raise TrainingFailed.by_spec(
                f"parameter {name} is {value.dtype}, allowed: torch.float32; call .float() on the module and use "
                f"compute.precision for faster formats",
                field=field,
            )


def _require_rows_for_batch_norm(model: nn.Module, prepared: Prepared, plan: TrainingPlan) -> None:
    parts = max(1, plan.spec.optimizer.accumulation_steps)
    smallest = min(len(prepared.train), plan.spec.data.batch_size) // parts
    if smallest < 2 and normalizes_over_batches(model):
        raise TrainingFailed.by_spec(
            f"batch normalization needs at least 2 rows in a step and in each of its parts, got {smallest}; raise the "
            f"batch size or choose another normalization",
            field="data.batch_size",
        )


def _require_onnx(model: nn.Module, prepared: Prepared, plan: TrainingPlan) -> None:
    """Write the model as ONNX once before it is trained: better refused now than after hours."""
    randomness = random_state(prepared.device)
    try:
        inputs = example_inputs(prepared.splits.train.columns, prepared.preprocessing)
        export_onnx(model, inputs, plan.directory / "rehearsed.onnx").unlink()
    except ValueError as error:
        raise TrainingFailed.by_spec(str(error), field="result.onnx") from error
    finally:
        restore_random_state(randomness, prepared.device)
