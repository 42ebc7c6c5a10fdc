"""The architectures by name: their options, what they read and answer, how they are built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradsight_models.builtins.mlp import Mlp, MlpConfig
from gradsight_models.builtins.text_classifier import TextClassifier, TextClassifierConfig
from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.configuration import Configuration
from gradsight_models.ngram_preprocessing import NgramPreprocessing
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.table_preprocessing import TablePreprocessing

JUDGING = ("classes", "labels", "numbers")
"""Kinds of outputs that say something about a row."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What there is to know about an architecture. `fit` sees training rows only."""

    configuration: type[Configuration]
    reads: Reading
    answers: tuple[str, ...]
    """Kinds of outputs that it can have."""
    fit: Callable[[Any, Sequence[Column], Chunks], Preprocessing]
    build: Callable[[Any, Any, int], nn.Module]
    """From configuration, preprocessing and the size of the outputs."""


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(
        configuration=MlpConfig,
        reads=Reading.TABLE,
        answers=JUDGING,
        fit=lambda _, columns, chunks: TablePreprocessing.fit(columns, chunks),
        build=lambda config, table, size: Mlp(config, table.size, size),
    ),
    "text_classifier": Architecture(
        configuration=TextClassifierConfig,
        reads=Reading.TEXT,
        answers=JUDGING,
        fit=lambda config, columns, chunks: NgramPreprocessing.fit(
            columns, chunks, max_vocabulary=config.max_vocabulary
        ),
        build=lambda config, ngrams, size: TextClassifier(config, ngrams.size, size),
    ),
}
"""Every built-in architecture, by its name in a spec."""
