"""Reports with something to say: made-up data for the pages and pictures."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from gradsight_insight.kinds import Number
from gradsight_insight.report import data as report
from gradsight_insight.statistics import wilson

LAYERS = ("embedding", "hidden.0", "hidden.1", "hidden.2", "hidden.3", "head")
CATEGORIES = ("returns", "sizing", "delivery", "payment", "care", "stock", "account")
HOSTILE = (
    '<script>alert("1")</script><img src=x onerror=y> & "quoted" \'q\' | `code` $x$ ${{7*7}} \u202e\n# head'
)


def share(errors: int, examples: int) -> report.Interval:
    """Errors as a share with its interval."""
    low, high = wilson(errors, examples)
    return report.Interval(errors / examples, low, high)


def evaluation(step: int, errors: int, examples: int, *, categories: bool = True) -> report.EvaluationFigures:
    """An evaluation of classes."""
    parts = tuple(
        report.CategoryFigures(
            category=name,
            examples=200 - 20 * place,
            error=share(40 - 5 * place, 200 - 20 * place),
            loss=0.9 - place / 10,
        )
        for place, name in enumerate(CATEGORIES if categories else ())
    )
    return report.EvaluationFigures(
        step=step, examples=examples, loss=0.61, error=share(errors, examples), macro_f1=0.8, categories=parts
    )


def probes(layers: int, steps: int) -> report.LayerProbes:
    """A gradient that loses its strength on the way to the first layer, and one step that is not finite."""
    random = np.random.default_rng(3)
    at = np.unique(np.concatenate([np.arange(10, min(steps, 200) + 1, 10), np.arange(240, steps + 1, 40)]))
    depth = np.linspace(0, 1, layers)
    time = at[:, None] / max(steps, 1)
    rms = 10 ** (
        -2 - 2.5 * (1 - depth) * (0.3 + time) - 0.7 * time + random.normal(0, 0.12, (len(at), layers))
    )
    ratio = 10 ** (-2.4 - 1.2 * (1 - depth) - 0.8 * time + random.normal(0, 0.15, (len(at), layers)))
    if len(at) > 30:
        rms[30] = np.nan
    return report.LayerProbes(steps=at, gradient_rms=rms, update_ratio=ratio)


def findings() -> tuple[report.Finding, ...]:
    """Three findings: a cause, its consequence, and one about rows."""
    suspects = tuple(
        report.SuspectRow(
            row_id=f"this_week-{place:05}",
            split="train",
            category="returns",
            target="refund_status",
            predicted="return_portal",
            loss=7.1 - place / 10,
            rank=place + 1,
        )
        for place in range(12)
    )
    evidence = Number(
        name="first_to_last_gradient", observed=3.1e-4, threshold=1e-3, first_step=200, last_step=360
    )
    return (
        report.Finding(
            finding_id="vanishing_gradient-1",
            kind="vanishing_gradient",
            severity="warning",
            subject_kind="layer",
            subject="hidden.0",
            first_step=200,
            last_step=560,
            explanation="The gradient loses nine tenths of its strength at each layer on its way to the first one, "
            "so the first layers hardly change: the model learns with its last layers only.",
            actions=(
                "Use ReLU or GELU in place of tanh.",
                "Normalize each hidden layer.",
                "Take fewer layers.",
            ),
            evidence=(evidence,),
            confidence=0.93,
            page_url="https://gradsight.dev/failure-modes/FM-05-vanishing-gradient",
        ),
        report.Finding(
            finding_id="plateau-1",
            kind="plateau",
            severity="info",
            subject_kind="run",
            subject="",
            first_step=330,
            last_step=560,
            explanation="Neither loss nor held-out loss has moved for 230 steps.",
            cause_finding_id="vanishing_gradient-1",
            open=False,
            confidence=0.8,
        ),
        report.Finding(
            finding_id="suspect_labels-1",
            kind="suspect_labels",
            severity="critical",
            subject_kind="category",
            subject="returns",
            first_step=560,
            last_step=560,
            explanation="In the category returns one row in ten carries a label that the finished model contradicts "
            "with high confidence. Wrong labels put a floor under the error of their category.",
            actions=("Check the rows listed below, and correct their labels.", "Train again, and compare."),
            evidence=(Number(name="contradicted_share", observed=0.104, threshold=0.03, unit=""),),
            confidence=0.9,
            suspects=suspects,
        ),
    )


def comparison() -> report.Comparison:
    """Two categories better, one worse."""
    verdicts = ("improved", "improved", "no_significant_change", "regressed", *["insufficient_evidence"] * 3)
    old, new = (80, 62, 20, 12, 14, 9, 8), (48, 40, 22, 30, 12, 10, 8)
    sizes = (200, 160, 120, 120, 120, 90, 90)

    def change(
        category: str, size: int, before: int, after: int, verdict: str, impact: float = 1.0
    ) -> report.Change:
        return report.Change(
            category=category,
            examples=size,
            baseline_error=share(before, size),
            error=share(after, size),
            only_baseline_wrong=before // 2,
            only_new_wrong=after // 2,
            p_value=0.0004 if verdict in ("improved", "regressed") else 0.6,
            smallest_detectable_fall=None if verdict == "insufficient_evidence" else 0.06,
            verdict=verdict,
            impact=impact,
        )

    return report.Comparison(
        baseline_job_id="support-intents-7f21",
        verdict="mixed",
        overall=change("", 900, sum(old), sum(new), "improved"),
        categories=tuple(
            change(*parts, impact={"returns": 3.0, "sizing": 2.0}.get(parts[0], 1.0))
            for parts in zip(CATEGORIES, sizes, old, new, verdicts, strict=True)
        ),
        baseline_weighted_error_ratio=0.29,
        weighted_error_ratio=0.22,
    )


def curves(steps: int) -> dict[str, report.Curve]:
    """Curves of a run of that many steps."""
    random = np.random.default_rng(1)
    at = np.arange(1, steps + 1)
    loss = 3.2 * np.exp(-at / (0.18 * steps + 1)) + 0.12 + random.gamma(2.0, 0.03, steps)
    every = max(1, steps // 12)
    evaluated = at[every - 1 :: every]
    held_out = 3.1 * np.exp(-evaluated / (0.2 * steps + 1)) + 0.45 + 0.15 * evaluated / steps
    gain = at[79::10] if steps > 80 else at[:0]
    rho = 0.55 - 0.3 * np.sin(gain / (0.1 * steps + 1)) + random.normal(0, 0.08, len(gain))
    return {
        "train_loss": report.Curve.of(at, loss),  # type: ignore[arg-type]
        "gradient_norm": report.Curve.of(at, np.exp(random.normal(0, 0.4, steps)) * (0.4 + loss)),  # type: ignore[arg-type]
        "learning_rate": report.Curve.of(at, 3e-3 * np.cos(at / steps * np.pi / 2)),  # type: ignore[arg-type]
        "gain_ratio": report.Curve.of(gain, rho),  # type: ignore[arg-type]
        "validation_loss": report.Curve.of(evaluated, held_out),  # type: ignore[arg-type]
        "validation_figure": report.Curve.of(evaluated, 0.1 + 0.7 * np.exp(-evaluated / (0.2 * steps))),  # type: ignore[arg-type]
    }


def finished(steps: int = 564, *, layers: tuple[str, ...] = LAYERS, **changes: Any) -> report.ReportData:
    """A finished job of classes with everything in it."""
    values: dict[str, Any] = {
        "job_id": "support-intents-9c04",
        "name": "support-intents",
        "state": "succeeded",
        "done": True,
        "written": datetime(2026, 11, 26, 9, 30, tzinfo=UTC),
        "version": "0.3.0",
        "labels": (report.Line("week", "this"),),
        "created": datetime(2026, 11, 26, 9, 12, tzinfo=UTC),
        "started": datetime(2026, 11, 26, 9, 12, 1, tzinfo=UTC),
        "ended": datetime(2026, 11, 26, 9, 12, 9, tzinfo=UTC),
        "step": steps,
        "total_steps": steps,
        "asked": (
            report.Line("Task", "predict intent from text with a text_classifier, by cross entropy"),
            report.Line(
                "Optimizer",
                "AdamW, learning rate up to 0.003, cosine after a warm-up of 5 %, batches of 64 rows",
            ),
            report.Line("Counts more", "errors in returns ×3, sizing ×2"),
        ),
        "rows": (
            report.Line(
                "Split", "2,960 to train, 334 to choose the weights (validation), 900 to judge (test)"
            ),
            report.Line("Classes", "27"),
        ),
        "prior_loss": 3.29,
        "prior_error_ratio": 0.957,
        "layers": layers,
        **curves(steps),
        "probes": probes(len(layers), steps),
        "efficacies": tuple(
            report.Efficacy(
                first_step=steps * place // 5, last_step=steps * (place + 1) // 5, verdict=verdict
            )
            for place, verdict in enumerate(("cautious", "effective", "effective", "overshoot", "inert"))
        ),
        "kept": evaluation(steps // 12 * 10, 24, 334),
        "test": evaluation(steps, 170, 900),
        "baseline_test": evaluation(steps, 205, 900),
        "verdict": report.RunVerdict(
            verdict="converged",
            confirmed=True,
            reasons=(
                "Held-out error has not moved beyond chance in the last three evaluations.",
                "A tenth of the learning rate would gain nothing: the trial at the end moved the held-out loss by 0.2 "
                "standard errors.",
            ),
            evidence=(
                Number(name="held_out_z", observed=0.2, threshold=-2.58, first_step=480, last_step=564),
                Number(name="gain_ratio", observed=0.62, threshold=0.25, first_step=400, last_step=560),
            ),
            kept_checkpoint_usable=True,
            step=steps,
        ),
        "comparison": comparison(),
        "findings": findings(),
        "mitigations": (
            report.Mitigation(
                mitigation_id="mitigation-1",
                finding_id="vanishing_gradient-1",
                action="scale_learning_rate",
                description="learning rate × 4 from step 240",
                step=240,
                outcome="reverted",
                outcome_step=320,
                message="Held-out rows did not get better.",
            ),
        ),
        "attempts": (report.Attempt(number=1, worker="w-1", device="cpu", resumed_at_step=0),),
    }
    return report.ReportData(**(values | changes))
