"""Faults of the usual lists that a job cannot have, why, and which test would fail if it could."""

from dataclasses import dataclass

_STEP = "tests/unit/training/test_training_step.py"
_OPTIMIZERS = "tests/unit/training/test_training_optimizers.py"
_OBJECTIVES = "tests/unit/test_training_objectives.py"
_EXPORT = "tests/unit/test_program_export.py"
_RUN = "tests/integration/test_training_run.py"


@dataclass(frozen=True, kw_only=True)
class Prevented:
    """A fault that nobody can bring in."""

    name: str
    reason: str
    checked: str
    """File and name of the test."""


PREVENTED = (
    Prevented(
        name="missing zero_grad, stale gradients",
        reason="The loop is the service's, and every step clears the flat gradients first.",
        checked=f"{_STEP}::test_gradients_match_finite_differences",
    ),
    Prevented(
        name="accumulation that is not scaled",
        reason="The parts of a batch are weighed by what counts in them; any number of parts is the same step.",
        checked=f"{_STEP}::test_a_step_in_parts_is_the_step_up_to_rounding",
    ),
    Prevented(
        name="train and eval mixed up",
        reason="A program is traced in both modes, and evaluation always runs the one for it.",
        checked=f"{_EXPORT}::test_the_modules_own_train_is_obeyed_and_the_module_left_as_it_was",
    ),
    Prevented(
        name="flipped sign, wrong reduction",
        reason="The loss is the service's; what it trains is the mean of what it reports.",
        checked=f"{_OBJECTIVES}::test_the_mean_of_the_judged_losses_is_the_training_loss_in_the_unit_that_is_reported",
    ),
    Prevented(
        name="a loss that does not fit the target",
        reason="Refused before the first step, with the objectives that fit.",
        checked=f"{_OBJECTIVES}::test_an_objective_that_does_not_fit_the_target_is_refused_with_those_that_do",
    ),
    Prevented(
        name="parameters that the optimizer does not know",
        reason="All trainable parameters are views of one flat tensor, which is what the optimizer updates.",
        checked=f"{_OPTIMIZERS}::test_updates_are_those_of_torchs_own_optimizer",
    ),
    Prevented(
        name="a detached branch",
        reason="The export follows the graph, freezes what no gradient can reach and names it in a warning.",
        checked=f"{_EXPORT}::test_parameters_that_the_scores_do_not_depend_on_are_frozen_and_said",
    ),
    Prevented(
        name="NaN in the rows",
        reason="Refused before the first step, with row and column.",
        checked="tests/unit/test_models_tensors.py::test_a_value_that_the_dtype_cannot_hold_names_row_and_column",
    ),
    Prevented(
        name="labels out of range",
        reason="Classes are numbered by what the target column holds.",
        checked="tests/unit/test_models_outputs.py::test_classes_are_sorted_and_numbered_over_all_chunks",
    ),
    Prevented(
        name="a single class",
        reason="Refused before the first step.",
        checked=f"{_RUN}::test_a_single_class_is_refused_before_the_first_step",
    ),
)
