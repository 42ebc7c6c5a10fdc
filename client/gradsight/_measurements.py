"""What runs measure: their rows, their model, their steps, their held-out error. Each is part of an event."""

import dataclasses
import datetime

from gradsight._enums import Split
from gradsight._insight import RatioInterval, UpdateEfficacy
from gradsight._records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRows(Record):
    """Rows of one split."""

    split: Split
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryRows(Record):
    """Rows of one category, by split."""

    category: str
    splits: tuple[SplitRows, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnRemark(Record):
    """What stands out in a column.

    Attributes:
        column: Name of the column.
        missing_rows: Cells without a value, over all splits.
        constant: True when every training row has the same value: the column says nothing.
        unseen_rows: Held-out cells with a word that train does not have.
    """

    column: str
    missing_rows: int
    constant: bool
    unseen_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFigures(Record):
    """What an input of the model looks like after preprocessing, over rows of train.

    Attributes:
        input: Name of the input.
        mean: Mean of its numbers; None for tokens.
        deviation: Standard deviation of its numbers; None for tokens.
        largest: Largest magnitude of its numbers; None for tokens.
        nonfinite_ratio: Share of its numbers that are not finite, 0 to 1.
        padding_ratio: Share of its tokens that are unknown or padding, 0 to 1; None for numbers.
    """

    input: str
    mean: float | None
    deviation: float | None
    largest: float | None
    nonfinite_ratio: float
    padding_ratio: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPrepared(Record):
    """The rows were read, checked and split.

    Attributes:
        splits: Rows per split.
        classes: Names of the target's classes, in the order of the model's outputs; empty where it has none.
        categories: Categories with their rows, most frequent first; empty without a category column.
        duplicate_rows: Rows whose content occurs again within the same split.
        leaked_rows: Held-out rows whose content also occurs in train.
        split_digest: Equal digests, equal splits.
        input_columns: Columns that the model reads, in order.
        prior_error_ratio: Validation error of always giving train's commonest answer, 0 to 1; None where answers are
            not right or wrong.
        prior_loss: Validation loss of always giving the same answer, the best by train, in the objective's unit.
        column_remarks: Columns with something to say, in the file's order.
        inputs: What the model's inputs look like after preprocessing.
    """

    splits: tuple[SplitRows, ...]
    classes: tuple[str, ...]
    categories: tuple[CategoryRows, ...]
    duplicate_rows: int
    leaked_rows: int
    split_digest: str
    input_columns: tuple[str, ...]
    prior_error_ratio: float | None
    prior_loss: float
    column_remarks: tuple[ColumnRemark, ...]
    inputs: tuple[InputFigures, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer(Record):
    """A module that owns parameters: place in forward order from 0, path, kind, number of parameters."""

    index: int
    path: str
    kind: str
    parameters: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBuilt(Record):
    """The model was built; `layers` in forward order, at most 32; steps are optimizer steps."""

    architecture: str
    parameters: int
    layers: tuple[Layer, ...]
    total_steps: int
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Record):
    """A step measured more richly; tuples hold one value per layer, in the order of `ModelBuilt.layers`.

    Attributes:
        step: Number of the step.
        layer_gradient_norm: Gradient norm before clipping.
        layer_gradient_rms: Gradient root mean square before clipping.
        layer_weight_norm: Weight norm before the update.
        layer_update_ratio: Norm of the update over norm of the weights.
        layer_activation_deviation: Standard deviation of the layer's output over the batch.
        layer_zero_ratio: Share of exact zeros in the layer's output over the batch, 0 to 1.
        predicted_decrease: Decrease of this batch's loss that the gradient promised of the update.
        actual_decrease: Decrease of this batch's loss that the update brought.
        gain_ratio: Sum of actual over sum of predicted decrease in the window of probes that ends here.
        layer_activation_mean: Mean of the layer's output over the batch.
        layer_saturated_ratio: Share of the layer's output where its activation no longer answers; NaN for layers
            without such an activation.
        layer_predicted_decrease: Part of the layer in `predicted_decrease`.
        gradient_noise_scale: Rows per batch at which half of a gradient's square is noise; None where not measured.
        attention_logit_max: Largest magnitude of attention logits in the batch; None without attention.
    """

    step: int
    layer_gradient_norm: tuple[float, ...]
    layer_gradient_rms: tuple[float, ...]
    layer_weight_norm: tuple[float, ...]
    layer_update_ratio: tuple[float, ...]
    layer_activation_deviation: tuple[float, ...]
    layer_zero_ratio: tuple[float, ...]
    predicted_decrease: float | None
    actual_decrease: float | None
    gain_ratio: float | None
    layer_activation_mean: tuple[float, ...]
    layer_saturated_ratio: tuple[float, ...]
    layer_predicted_decrease: tuple[float, ...]
    gradient_noise_scale: float | None
    attention_logit_max: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepsRecorded(Record):
    """A batch of consecutive optimizer steps, in columns of equal length.

    Attributes:
        first_step: Number of the first step in the batch, from 1; the others follow without gaps.
        loss: Training loss of each step; may be non-finite.
        gradient_norm: Global gradient norm of each step before clipping; may be non-finite.
        learning_rate: Learning rate of each step.
        clip_factor: Factor that clipping left of each step's gradient, 0 to 1.
        nonfinite_steps: Steps of this batch that were not finite and therefore changed nothing.
        probes: Steps of this batch that were measured more richly.
        samples_total: Training rows consumed by the run up to the end of this batch.
        training_seconds: Seconds of training up to the end of this batch, over all attempts.
        last_step_time: When the last step of the batch ended, on the worker's clock.
        first_step_time: When the attempt's first step ended; only in the attempt's first batch.
        telemetry_ratio: Share of the attempt's training time spent on telemetry so far, 0 to 1.
    """

    first_step: int
    loss: tuple[float, ...]
    gradient_norm: tuple[float, ...]
    learning_rate: tuple[float, ...]
    clip_factor: tuple[float, ...]
    nonfinite_steps: tuple[int, ...]
    probes: tuple[Probe, ...]
    samples_total: int
    training_seconds: float
    last_step_time: datetime.datetime | None
    first_step_time: datetime.datetime | None
    telemetry_ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryEvaluation(Record):
    """Held-out error in one category: rows, wrong answers, their share (0 to 1) with its interval, and the mean loss.

    Errors are None where answers are not right or wrong.
    """

    category: str
    examples: int
    errors: int | None
    error_ratio: float | None
    loss: float
    error_interval: RatioInterval | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationCompleted(Record):
    """Held-out rows were evaluated.

    Attributes:
        split: The rows.
        step: Optimizer steps done.
        epoch: Passes over the training rows done, fractional.
        examples: Number of rows.
        loss: Mean loss in the objective's unit, without smoothing.
        error_ratio: Share of wrong answers, 0 to 1: of rows, or of a language model's tokens. None where answers are
            not right or wrong.
        weighted_error_ratio: The same weighted by category impact; equals `error_ratio` without impacts.
        categories: By category, most frequent first; empty without a category column.
        kept: True when this is the best evaluation on validation so far and its weights were kept.
        baseline_job_id: Job whose weights were evaluated, when they are a baseline's.
        macro_f1: Mean F1 of the classes or labels that occur, 0 to 1; None for other answers.
        root_mean_square_error: In units of the target; None but for numbers.
        mean_absolute_error: In units of the target; None but for numbers.
        perplexity: Exponential of the loss per token, at least 1; None but for language models.
        selection_figure: What chooses the checkpoint, smaller is better: the weighted error of classes and labels, the
            loss (weighted likewise) of numbers and language models.
        mean_confidence: Mean of the highest probability that the model gave, 0 to 1; only for classes.
        calibration_error: Expected calibration error over 15 bins, 0 to 1; only for classes.
        answer_entropy_ratio: Entropy of the answers' frequencies over that of the targets'; near 0 when the model
            answers one class for everything; only for classes.
        layer_dead_ratio: Share of each layer's units that stay at zero for every row, 0 to 1, in the order of
            `ModelBuilt.layers`; NaN for layers without an activation that can die; empty where it was not measured.
        loss_z: Loss less that of the kept evaluation before it, in standard errors over the same rows: below 0 is
            better.
        error_z: Errors likewise (McNemar): below 0 is better.
        update_efficacy: What the updates since the evaluation before achieved; only on validation.
    """

    split: Split
    step: int
    epoch: float
    examples: int
    loss: float
    error_ratio: float | None
    weighted_error_ratio: float | None
    categories: tuple[CategoryEvaluation, ...]
    kept: bool
    baseline_job_id: str | None
    macro_f1: float | None
    root_mean_square_error: float | None
    mean_absolute_error: float | None
    perplexity: float | None
    selection_figure: float
    mean_confidence: float | None
    calibration_error: float | None
    answer_entropy_ratio: float | None
    layer_dead_ratio: tuple[float, ...]
    loss_z: float | None
    error_z: float | None
    update_efficacy: UpdateEfficacy | None
