"""What the service reaches on data whose figures are known, beside the anchors: one `gradsight up`, one job at a time.

*banking77*: 77 intents of bank customers, `text_classifier` with its defaults on the published split; in the same run a
linear SVM on TF-IDF of words and characters (scikit-learn), which is also the anchor of its training time. *MNIST-1D*:
the authors' recipe (Adam at 1e-2, batches of 100, 6,000 steps; constant rate, no clipping) with their three models as
programs. *digits* of scikit-learn: `mlp` with its defaults; a quarter judges, as
`train_test_split(random_state=0)` cuts it off.
"""

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _household import household, scratch_directory
from _report import Figure, arguments, report
from safetensors.numpy import save_file

import gradsight
from gradsight import Client, Job, JobState

SHARED = Path(os.environ.get("GRADSIGHT_SHARED") or Path(__file__).parents[2] / "shared")
BANKING77 = SHARED / "data" / "banking77"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", action="append", choices=_MEASUREMENTS, help="only this one (repeatable)")
    options = parser.parse_args()
    figures: list[Figure] = []
    with (
        scratch_directory() as directory,
        household(directory) as addresses,
        Client(addresses.service) as client,
    ):
        for name in options.data or _MEASUREMENTS:
            if lacking := _lacking(name):
                print(f"{name}: left out, {lacking}", file=sys.stderr)
            else:
                lab = Lab(client, directory, quick=options.quick)
                figures += _MEASUREMENTS[name](lab)
    report("accuracy", figures, as_json=options.json)


@dataclass(frozen=True)
class Lab:
    """Where jobs are tried."""

    client: Client
    directory: Path
    quick: bool

    def accuracies(self, seeds: int, **options: Any) -> tuple[list[float], list[Job]]:
        """Train once for each seed (`--quick`: one) and return the test accuracies, and the jobs."""
        jobs = []
        for seed in range(1 if self.quick else seeds):
            job = self.client.submit(seed=seed, **options).wait(timeout=1800)
            assert job.state is JobState.SUCCEEDED, job.error
            jobs.append(job)
        return [1 - _test_error(job) for job in jobs], jobs


def _test_error(job: Job) -> float:
    assert job.summary is not None
    assert job.summary.test is not None
    assert job.summary.test.error_ratio is not None
    return job.summary.test.error_ratio


def _lacking(name: str) -> str:
    packages = {"banking77": ("sklearn",), "mnist1d": ("mnist1d",), "digits": ("sklearn",)}[name]
    if absent := [package for package in packages if not importlib.util.find_spec(package)]:
        return f"{absent[0]} is not installed"
    return f"no data in {BANKING77}" if name == "banking77" and not BANKING77.is_dir() else ""


# banking77


def _banking77(lab: Lab) -> list[Figure]:
    accuracies, jobs = lab.accuracies(
        3,
        model="text_classifier",
        train=BANKING77 / "train.csv",
        test=BANKING77 / "test.csv",
        text="text",
        target="category",
    )
    svm_accuracy, svm_seconds = _linear_svm()
    ours = statistics.median(_seconds(job) for job in jobs)
    return [
        Figure(name="banking77: accuracy", value=statistics.median(accuracies), unit="ratio", bar=0.91),
        Figure(name="banking77: linear SVM, accuracy", value=svm_accuracy, unit="ratio"),
        Figure(name="banking77: from the job's start to its end", value=ours, unit="s"),
        Figure(name="banking77: linear SVM, from texts to answers", value=svm_seconds, unit="s"),
        Figure(
            name="banking77: times as long as the SVM",
            value=ours / svm_seconds,
            unit="ratio",
            bar=5,
            direction="at_most",
        ),
    ]


def _seconds(job: Job) -> float:
    """All of it: rows read and encoded, trained, judged, written."""
    assert job.start_time is not None
    assert job.end_time is not None
    return (job.end_time - job.start_time).total_seconds()


def _linear_svm() -> tuple[float, float]:
    """Test accuracy of the anchor and its seconds: reading, TF-IDF, fitting and answering, as a job does all of it."""
    import csv

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    began = time.perf_counter()
    sides = []
    for name in ("train.csv", "test.csv"):
        with (BANKING77 / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        sides.append(([row["text"] for row in rows], [row["category"] for row in rows]))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    svm = make_pipeline(make_union(words, characters), LinearSVC())
    svm.fit(*sides[0])
    accuracy = float(svm.score(*sides[1]))
    return accuracy, time.perf_counter() - began


# MNIST-1D


def _mnist1d(lab: Lab) -> list[Figure]:
    import torch
    from mnist1d.data import get_dataset_args, make_dataset

    data = make_dataset(get_dataset_args())
    files = {
        side: _tensors(lab.directory / f"mnist1d-{side}.safetensors", data[inputs], data[targets])
        for side, inputs, targets in (("train", "x", "y"), ("test", "x_test", "y_test"))
    }
    recipe: dict[str, Any] = {
        "train": files["train"],
        "test": files["test"],
        "inputs": ["input"],
        "target": "label",
        "batch_size": 100,
        "steps": 6000,
        "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.0, "clipping_disabled": True, "adam": {}},
        "schedule": {"constant": {}, "warmup_fraction": 0.0},
    }
    figures = []
    for name, low, high, build in _mnist1d_models():
        accuracies = []
        for seed in range(1 if lab.quick else 5):
            torch.manual_seed(seed)
            model = gradsight.export(build(), torch.zeros(2, 40))
            (accuracy,), _ = lab.accuracies(1, **recipe, model=model)
            accuracies.append(100 * accuracy)
        middle = statistics.median(accuracies)
        figures += [
            Figure(name=f"MNIST-1D, {name}: accuracy, at least", value=middle, unit="%", bar=low),
            Figure(
                name=f"MNIST-1D, {name}: accuracy, at most",
                value=middle,
                unit="%",
                bar=high,
                direction="at_most",
            ),
        ]
    return figures


def _mnist1d_models() -> list[tuple[str, float, float, Callable[[], Any]]]:
    """The authors' models, the range in which their accuracy in per cent is known to lie, and how they are made."""
    from torch import nn

    def linear() -> nn.Module:
        return nn.Linear(40, 10)

    def mlp() -> nn.Module:
        return nn.Sequential(
            nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
        )

    def cnn() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 40)),
            nn.Conv1d(1, 25, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(25, 25, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(25, 25, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(125, 10),
        )

    return [("linear", 31.0, 32.5, linear), ("MLP", 62.0, 67.0, mlp), ("CNN", 90.0, 95.0, cnn)]


# digits


def _digits(lab: Lab) -> list[Figure]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    inputs, test_inputs, targets, test_targets = train_test_split(
        *load_digits(return_X_y=True), random_state=0
    )
    accuracies, _ = lab.accuracies(
        5,
        model="mlp",
        train=_csv(lab.directory / "digits-train.csv", inputs, targets),
        test=_csv(lab.directory / "digits-test.csv", test_inputs, test_targets),
        target="label",
    )
    theirs = MLPClassifier(random_state=0).fit(inputs, targets).score(test_inputs, test_targets)
    return [
        Figure(name="digits: accuracy", value=statistics.median(accuracies), unit="ratio", bar=0.97),
        Figure(name="digits: scikit-learn's MLPClassifier, its defaults", value=theirs, unit="ratio"),
    ]


def _tensors(path: Path, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Path:
    save_file({"input": inputs.astype(np.float32), "label": targets.astype(np.int64)}, path)
    return path


def _csv(path: Path, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Path:
    header = ",".join([*(f"pixel{number}" for number in range(inputs.shape[1])), "label"])
    np.savetxt(path, np.column_stack([inputs, targets]), "%d", ",", header=header, comments="")
    return path


_MEASUREMENTS: dict[str, Callable[[Lab], list[Figure]]] = {
    "banking77": _banking77,
    "mnist1d": _mnist1d,
    "digits": _digits,
}

if __name__ == "__main__":
    main()
