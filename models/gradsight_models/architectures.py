"""The architectures by name: their options, how their inputs are prepared, how they are built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradsight_models.builtins.mlp import Mlp, MlpConfig
from gradsight_models.builtins.text_classifier import TextClassifier, TextClassifierConfig
from gradsight_models.configuration import Configuration
from gradsight_models.numeric_preprocessing import NumericPreprocessing
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.text_preprocessing import TextPreprocessing

Columns = Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What there is to know about an architecture. `fit` sees training rows only."""

    configuration: type[Configuration]
    reads_text: bool
    fit: Callable[[Any, Columns], Preprocessing]
    build: Callable[[Any, Any, int], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(
        configuration=MlpConfig,
        reads_text=False,
        fit=lambda _, columns: NumericPreprocessing.fit(columns),
        build=lambda config, preprocessing, classes: Mlp(config, len(preprocessing.mean), classes),
    ),
    "text_classifier": Architecture(
        configuration=TextClassifierConfig,
        reads_text=True,
        fit=lambda config, columns: TextPreprocessing.fit(columns[0], max_vocabulary=config.max_vocabulary),
        build=lambda config, preprocessing, classes: TextClassifier(config, preprocessing.size, classes),
    ),
}
"""Every built-in architecture, by its name in a spec."""


def fit_preprocessing(architecture: str, columns: Columns, options: Mapping[str, Any]) -> Preprocessing:
    """Fit an architecture's preprocessing on the input columns of the training rows."""
    known = ARCHITECTURES[architecture]
    return known.fit(known.configuration.from_json(options), columns)


def preprocessing_from_json(document: Mapping[str, Any]) -> Preprocessing:
    """Read what `Preprocessing.to_json` wrote; raises ValueError for an unknown kind."""
    match document.get("kind"):
        case "numeric":
            return NumericPreprocessing.from_json(dict(document))
        case "text":
            return TextPreprocessing.from_json(dict(document))
        case other:
            raise ValueError(f"preprocessing: got kind {other!r}, allowed: numeric, text")


def build_model(
    architecture: str, options: Mapping[str, Any], preprocessing: Preprocessing, class_count: int
) -> nn.Module:
    """A fresh model, initialised from torch's global generator; `forward(*inputs)` gives scores [batch, classes]."""
    known = ARCHITECTURES[architecture]
    return known.build(known.configuration.from_json(options), preprocessing, class_count)
