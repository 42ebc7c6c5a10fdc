"""Does the run optimize what was meant? FM-20 loss contract, FM-21 input contract, FM-22 step protocol.

They are asked first: where one of them holds, every later number is about another task than the one that was meant.
All but a few of their signs are known before the first update.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradsight_insight.detectors.windows import is_kind, percent, plain
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Severity, Threshold
from gradsight_insight.signals import FirstBatch, InputFacts, Signals

LOSS_CONTRACT = FindingKind(
    code="FM-20",
    name="loss_contract",
    title="Loss contract",
    severity="critical",
    you_see=(
        "The job runs, the loss even falls, but slowly, or to a strange value; accuracy stays far below what the "
        "same data gave elsewhere. Nothing in the log looks like an error. Or the loss is negative, which "
        "no built-in objective can be."
    ),
    mechanism=(
        "Backpropagation follows the derivative of the number that it is given, whatever that number means. "
        "Cross-entropy applies a softmax itself. When the model already ends in one, its outputs lie between "
        "0 and 1, and the second softmax can give the right class no more than e / (e + C − 1) of C classes' "
        "probability: the loss has a floor that no training can pass, and the gradient, squeezed through two "
        "softmaxes, is weak where it should be strongest. When the sign is wrong, every update makes the "
        "right answer less likely. When the loss does not depend on the targets, the gradient carries no "
        "information about them, and the model learns whatever else lowers the number. In each case the "
        "optimizer works perfectly, on another task."
    ),
    rule=(
        "Before the first update, on the first batch: scores that should be free numbers (logits) are all at least 0 "
        "and add up to 1 in every row; or the loss stays the same to the last digit when the targets are exchanged "
        "among different ones; or the loss, or that of any later step, is below `lowest_loss`."
    ),
    look_alikes=(
        "Log-probabilities into a negative log-likelihood: these are below 0 and do not add up to 1, so they are not "
        "flagged.",
        "A model that has learned nothing yet (FM-12 not learning): its loss depends on the targets from the start, "
        "it only does not fall.",
        "A loss that can be below 0 by definition, in a recipe of your own: lower `lowest_loss`.",
    ),
    actions=(
        "Take the softmax or sigmoid out of the model's last layer: objectives expect logits and apply it "
        "themselves.",
        "Check the sign and the reduction of a loss of your own: it must fall when answers get better.",
        "Check that the target column is the one you mean and that its rows are in the order of the inputs' rows.",
        "Train on 16 rows only: a sound set-up learns them by heart within a few hundred steps.",
    ),
    gradsight_does=(
        "It reports the finding at step 1 under every policy, and calls the run UNSOUND while it is open. `REPAIR` "
        "changes nothing: only you know which task was meant. `STOP` ends the job at once, which is the cheapest "
        "moment to end it."
    ),
    sources=(
        "Schoop, Huang, Hartmann: UMLAUT, CHI 2021, doi 10.1145/3411764.3445538",
        "Nikanjam et al.: NeuraLint, TOSEM 2021, arXiv 2105.08095",
        "Zhang et al.: AUTOTRAINER, ICSE 2021, doi 10.1109/ICSE43902.2021.00043",
    ),
    thresholds={
        "lowest_loss": Threshold(
            default=-1e-6,
            low=-1e9,
            high=0.0,
            meaning="Smallest value that the training loss can have, in its own unit.",
        )
    },
)

INPUT_CONTRACT = FindingKind(
    code="FM-21",
    name="input_contract",
    title="Input contract",
    severity="warning",
    you_see=(
        "Training is slow, unstable or stuck from the first step, or a model that is good elsewhere is bad on this "
        "file. Inputs are pixels from 0 to 255, prices in cents, a column that never changes, texts that are mostly "
        "unknown words, or sequences whose places were mixed up on the way."
    ),
    mechanism=(
        "A layer computes w·x, and its gradient is the error times x. Initial weights are drawn for inputs of "
        "about unit size. Inputs that are 255 times larger make the first outputs 255 times larger: ReLUs die "
        "or sigmoids saturate at once, and each update of the first layer is 255 times too large for a "
        "learning rate that suits the others. Inputs close to 0 do the opposite: the first layer's gradient "
        "all but vanishes. One value that is not finite makes every output NaN. A column without variation "
        "carries no information. A convolution assumes that neighbouring positions belong together; when "
        "their order was mixed up it looks for patterns that are not there, and learns noise by heart instead."
    ),
    rule=(
        "Of each input after preprocessing, over rows of train: any value not finite (critical); a deviation "
        "above `largest_deviation` or a magnitude above `largest_magnitude`; all magnitudes below "
        "`smallest_magnitude`, or rows that are all the same; a share of unknown or padding tokens above "
        "`padding_ratio`. And where the model has convolutions: neighbouring positions that are correlated by "
        "less than `neighbour_correlation`."
    ),
    look_alikes=(
        "Standardized numbers beyond −1 to 1: this is normal, and not flagged.",
        "Counts and one-hot columns, which are mostly 0: their deviation is small, their magnitude is not.",
        "A learning rate that is too high (FM-08) or a bad initialization (FM-11): with sound inputs these stand "
        "alone; beside this finding they are its consequences.",
        "Short texts in long sequences: padding is masked and harmless, though it costs time.",
    ),
    actions=(
        "Standardize numbers: subtract train's mean, divide by its deviation. Built-in tables do it by default.",
        "Divide pixels by 255, once.",
        "Remove or repair rows with values that are not finite, and columns that never change.",
        "For texts, build the vocabulary from this data, or raise its size until few words are unknown.",
        "For sequences and images, check that columns are in their true order, or use a model that does not mind.",
    ),
    gradsight_does=(
        "It reports the finding before the first step. Under `REPAIR` with `allow_recipe_changes` it tries "
        "inputs of programs and recipes standardized by train's own mean and deviation: a trial that is kept "
        "only if held-out rows are answered better. `STOP` ends training when values are not finite."
    ),
    sources=(
        "Amazon SageMaker Debugger, built-in rules CheckInputImages and NLPSequenceRatio (documentation)",
        "LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998, section 4.3",
        "Greydanus: Scaling down deep learning (MNIST-1D), arXiv 2011.14439: what mixed-up positions cost",
    ),
    thresholds={
        "largest_deviation": Threshold(
            default=10.0, low=1.0, high=1e9, meaning="Largest standard deviation of an input."
        ),
        "largest_magnitude": Threshold(
            default=50.0, low=1.0, high=1e12, meaning="Largest magnitude of an input's values."
        ),
        "smallest_magnitude": Threshold(
            default=0.02,
            low=0.0,
            high=1.0,
            meaning="An input whose values are all smaller is scaled down too far.",
        ),
        "padding_ratio": Threshold(
            default=0.5, low=0.0, high=1.0, meaning="Largest share of tokens that are unknown or padding."
        ),
        "neighbour_correlation": Threshold(
            default=0.1,
            low=-1.0,
            high=1.0,
            meaning="Smallest correlation of neighbouring positions that a convolution can use.",
        ),
    },
    repairs=("standardize_inputs",),
)

STEP_PROTOCOL = FindingKind(
    code="FM-22",
    name="step_protocol",
    title="Step protocol",
    severity="critical",
    you_see=(
        "The loss falls at first and then swings wider and wider, as if the learning rate were far too high, at "
        "a learning rate that is usual. Lowering it helps only for a while."
    ),
    mechanism=(
        "Gradients add up in memory until somebody sets them to 0. When a step begins with what the step "
        "before left, the update uses the sum of all gradients since the start: a momentum of exactly 1, "
        "which never forgets. Old directions, right for weights that are long gone, go on pushing; the step "
        "grows with the number of steps, and the run overshoots however small the learning rate is."
    ),
    rule="At step 1 and at the start of any step: a gradient that is not exactly 0 before the backward pass.",
    look_alikes=(
        "Accumulation over parts of a batch: intended, and within one step.",
        "A learning rate that is too high (FM-08): its gradients begin each step at 0.",
    ),
    actions=(
        "Set the gradients to zero before each step's backward pass; the built-in loop does, so look in the recipe.",
        "When accumulating, divide each part's loss by the number of parts, and step once at the end.",
    ),
    gradsight_does=(
        "gradsight owns the loop and clears gradients itself; a recipe or a hook that writes gradients of its own is "
        "reported at step 1. No policy repairs it; `STOP` ends the job."
    ),
    sources=(
        "PyTorch documentation: zeroing out gradients",
        "Braiek, Khomh: TheDeepChecker, TOSEM 2022, arXiv 2204.00694",
    ),
)


def _loss_contract(signals: Signals, lowest_loss: float) -> list[Observation]:
    seen: list[tuple[Number, str]] = []
    first = signals.facts.first_batch
    if first is not None and first.outputs_are_probabilities:
        seen.append((Number(name="outputs_are_probabilities", observed=1.0), _PROBABILITIES))
    if first is not None and first.loss_ignores_targets:
        number = Number(name="loss_ignores_targets", observed=1.0)
        seen.append(
            (
                number,
                "The first batch's loss stays the same to the last digit when its targets are exchanged. ",
            )
        )
    lowest = _lowest_loss(signals, first)
    if lowest < lowest_loss:
        number = Number(name="loss", observed=lowest, threshold=lowest_loss, last_step=signals.step)
        seen.append((number, f"The loss was {plain(lowest)}, below what it can be at all. "))
    if not seen:
        return []
    return [
        Observation(
            kind=LOSS_CONTRACT.name,
            first_step=1,
            last_step=max(1, signals.step),
            evidence=tuple(number for number, _ in seen),
            confidence=0.95,
            explanation="".join(text for _, text in seen)
            + "The updates therefore follow the derivative of another task than the one that is meant: the loss may "
            "fall, and the answers need not get better.",
        )
    ]


_PROBABILITIES = (
    "In the first batch all scores are at least 0 and add up to 1 in every row: the model ends in a softmax, and the "
    "loss applies another one. Two of them leave a weak gradient and a loss that cannot come near 0. "
)


def _lowest_loss(signals: Signals, first: FirstBatch | None) -> float:
    losses = signals.steps.loss[np.isfinite(signals.steps.loss)]
    lowest = float(losses.min(initial=math.inf))
    return min(lowest, first.loss) if first is not None and math.isfinite(first.loss) else lowest


def _input_contract(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    convolves = any(is_kind(layer, "conv") for layer in signals.facts.layers)
    observations = []
    for facts in signals.facts.inputs:
        faults = _faults_of(facts, limits, convolves)
        if faults:
            severity: Severity = "critical" if facts.nonfinite_ratio > 0 else "warning"
            observations.append(
                Observation(
                    kind=INPUT_CONTRACT.name,
                    subject_kind="input",
                    subject=facts.name,
                    first_step=0,
                    last_step=signals.step,
                    evidence=tuple(number for number, _ in faults),
                    confidence=0.9,
                    explanation=f"Input `{facts.name}`: " + " ".join(text for _, text in faults),
                    severity=severity,
                )
            )
    return observations


def _faults_of(facts: InputFacts, limits: Mapping[str, float], convolves: bool) -> list[tuple[Number, str]]:
    largest = facts.largest if facts.largest is not None else math.nan
    deviation = facts.deviation if facts.deviation is not None else math.nan
    constant = facts.constant or deviation == 0
    correlation = facts.neighbour_correlation if facts.neighbour_correlation is not None else math.nan
    unit_size = (
        "weights are drawn for inputs of about unit size, so the first layer's outputs and updates are out of "
        "proportion to those of the others."
    )
    checks = (
        ("nonfinite_ratio", facts.nonfinite_ratio, 0.0, facts.nonfinite_ratio > 0,
         f"{percent(facts.nonfinite_ratio)} of its values are not finite; one of them makes every output NaN."),
        ("deviation", deviation, limits["largest_deviation"], deviation > limits["largest_deviation"],
         f"its values deviate by {plain(deviation)} around their mean; {unit_size}"),
        ("largest", largest, limits["largest_magnitude"],
         largest > limits["largest_magnitude"] and not deviation > limits["largest_deviation"],
         f"its largest value is {plain(largest)}; {unit_size}"),
        ("constant", 1.0, 0.0, constant, "all its rows are the same, so it tells the model nothing."),
        ("largest", largest, limits["smallest_magnitude"],
         largest < limits["smallest_magnitude"] and not constant,
         f"its largest value is {plain(largest)}, as if it had been scaled down twice; the first layer's gradient, "
         "the error times the input, all but vanishes."),
        ("padding_ratio", facts.padding_ratio or 0.0, limits["padding_ratio"],
         (facts.padding_ratio or 0.0) > limits["padding_ratio"],
         f"{percent(facts.padding_ratio or 0.0)} of its tokens are unknown or padding, so most of what the "
         "model reads "
         "says nothing."),
        ("neighbour_correlation", correlation, limits["neighbour_correlation"],
         convolves and not constant and correlation < limits["neighbour_correlation"],
         f"neighbouring positions are correlated by only {plain(correlation)}, as if their order had been mixed up; "
         "the model's convolutions look for patterns among neighbours, and will learn noise by heart instead."),
    )  # fmt: skip
    return [
        (Number(name=name, observed=observed, threshold=limit), text)
        for name, observed, limit, holds, text in checks
        if holds
    ]


def _step_protocol(signals: Signals) -> list[Observation]:
    first = signals.facts.first_batch
    if first is None or not first.stale_gradients:
        return []
    return [
        Observation(
            kind=STEP_PROTOCOL.name,
            first_step=1,
            last_step=max(1, signals.step),
            evidence=(Number(name="stale_gradients", observed=1.0, first_step=1, last_step=1),),
            confidence=0.98,
            explanation="A gradient was not 0 when a step began. What earlier steps left is added to each new "
            "gradient, a momentum that never forgets: the step grows with the number of steps, and the run "
            "overshoots however small its learning rate is.",
        )
    ]


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return [
        *_loss_contract(signals, thresholds[LOSS_CONTRACT.name]["lowest_loss"]),
        *_input_contract(signals, thresholds[INPUT_CONTRACT.name]),
        *_step_protocol(signals),
    ]


CONTRACTS = Family(kinds=(LOSS_CONTRACT, INPUT_CONTRACT, STEP_PROTOCOL), find=_find)
