"""What is known of a run before its first step, as detectors take it."""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gradsight.v1 import spec_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.priors import Prior
from gradsight_insight.signals import InputFacts, LayerFacts, RunFacts
from gradsight_models import Layer
from gradsight_models.recipes import RecipeSource
from gradsight_worker.training.clipping import Clipping
from gradsight_worker.training.plan import TrainingPlan
from gradsight_worker.training.preparation import Prepared
from gradsight_worker.training.state import TrainingState
from gradsight_worker.training.tapping import LayerTap

_SAME = 1e-6
"""Rows of a weight that differ by less than this share of its largest number are the same."""
_PRECISIONS: dict[int, Literal["float32", "bfloat16", "float16"]] = {
    spec_pb2.PRECISION_BFLOAT16: "bfloat16",
    spec_pb2.PRECISION_FLOAT16: "float16",
}


def run_facts(
    prepared: Prepared,
    plan: TrainingPlan,
    *,
    state: TrainingState,
    layers: Sequence[LayerFacts],
    inputs: tuple[InputFacts, ...],
    prior: Prior,
    training_prior_loss: float,
    class_counts: npt.NDArray[np.int64] | None,
    total_steps: int,
    has_attention: bool,
) -> RunFacts:
    """Everything but the first batch.

    Args:
        prepared: The rows.
        plan: The run's.
        state: Before the first step of this attempt.
        layers: As `layer_facts` gives them.
        inputs: As `input_facts` gives them.
        prior: Cost of answering without a model, on validation.
        training_prior_loss: The same on train, in the training loss's unit.
        class_counts: Rows of train by class; None where answers are no classes.
        total_steps: Of the whole run.
        has_attention: Whether the model computes attention that can be seen.
    """
    spec, splits, outputs = plan.spec, prepared.splits, prepared.outputs
    objective = spec.objective.cross_entropy
    clipping = Clipping.of(spec.optimizer)
    return RunFacts(
        total_steps=total_steps,
        steps_per_epoch=prepared.batches.steps_per_epoch,
        batch_size=spec.data.batch_size,
        answers=cast(Literal["classes", "labels", "numbers", "tokens"], outputs.kind),
        prior_loss=training_prior_loss,
        prior_error_ratio=prior.error_ratio,
        held_out_prior_loss=prior.loss,
        class_counts=class_counts,
        class_names=outputs.names if outputs.kind == "classes" else (),
        category_counts=_category_counts(splits.train.categories),
        layers=tuple(layers),
        inputs=inputs,
        train_rows=len(splits.train),
        validation_rows=len(splits.validation),
        test_rows=len(splits.test),
        leaked_rows=splits.leaked_rows,
        fine_tuning=_goes_on(prepared, plan),
        has_attention=has_attention,
        precision=_PRECISIONS.get(spec.compute.precision, "float32"),
        warm_up_steps=state.schedule.warm_up_steps,
        highest_learning_rate=spec.optimizer.learning_rate,
        clips=clipping.max_norm is not None or clipping.max_value is not None,
        balances_classes=bool(
            objective.class_weights or objective.class_weighting == spec_pb2.CLASS_WEIGHTING_BALANCED
        ),
    )


def layer_facts(
    model: nn.Module, layers: Sequence[Layer], tap: LayerTap, shrinkage: Mapping[str, float]
) -> list[LayerFacts]:
    """What is known of each layer; call it before the first step.

    Args:
        model: With its first weights.
        layers: The model's.
        tap: Has seen a forward pass.
        shrinkage: What decay takes from each trainable parameter, as `shrinkage_per_rate` gives it.
    """
    parameters = dict(model.named_parameters())
    facts = []
    for layer, activation in zip(layers, tap.activations, strict=True):
        own = [parameters[name] for name in layer.parameter_names]
        facts.append(
            LayerFacts(
                path=layer.path,
                kind=layer.kind,
                parameters=layer.parameter_count,
                activation=activation,
                trainable=any(parameter.requires_grad for parameter in own),
                symmetric_units=any(_is_symmetric(parameter.detach()) for parameter in own),
                # Biases and norms beside the matrices do not decay, and hold few of the numbers.
                shrinkage_per_rate=max(
                    (shrinkage.get(name, 0.0) for name in layer.parameter_names), default=0.0
                ),
            )
        )
    return facts


def _goes_on(prepared: Prepared, plan: TrainingPlan) -> bool:
    """Whether the weights have been trained before; of a program's nobody knows."""
    pretrained = isinstance(prepared.source, RecipeSource) and prepared.source.is_pretrained
    return pretrained or prepared.start is not None or plan.extended is not None


def _is_symmetric(weight: torch.Tensor) -> bool:
    """Whether all rows of a matrix, or filters, are the same."""
    if weight.ndim < 2 or len(weight) < 2 or not weight.is_floating_point() or weight.is_sparse:
        return False
    limit = _SAME * weight[:2].abs().amax()
    # Two rows tell nearly always, and cost nothing.
    if bool((weight[0] - weight[1]).abs().amax() > limit):
        return False
    return bool((weight - weight[:1]).abs().amax() <= _SAME * weight.abs().amax())


def _category_counts(column: npt.NDArray[np.object_] | None) -> dict[str, int]:
    if column is None:
        return {}
    folded = Categories.of(column).folded()
    return dict(zip(folded.names, folded.counts().tolist(), strict=True))
