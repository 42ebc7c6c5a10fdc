"""The architectures by name: their options, what they read and answer, how they are built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradsight_models.builtins.cnn import Cnn, CnnConfig
from gradsight_models.builtins.gpt import Gpt, GptConfig
from gradsight_models.builtins.mlp import Mlp, MlpConfig
from gradsight_models.builtins.text_classifier import TextClassifier, TextClassifierConfig
from gradsight_models.builtins.text_transformer import TextTransformer, TextTransformerConfig
from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.configuration import Configuration
from gradsight_models.image_preprocessing import ImagePreprocessing
from gradsight_models.ngram_preprocessing import NgramPreprocessing
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.table_preprocessing import TablePreprocessing
from gradsight_models.token_preprocessing import TokenForm, TokenPreprocessing

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
    "text_transformer": Architecture(
        configuration=TextTransformerConfig,
        reads=Reading.TOKENS,
        answers=JUDGING,
        fit=lambda config, columns, chunks: _fit_tokens(TokenForm.CLASSIFIER, config, columns, chunks),
        build=lambda config, tokens, size: TextTransformer(config, tokens.size, tokens.width, size),
    ),
    "cnn": Architecture(
        configuration=CnnConfig,
        reads=Reading.IMAGES,
        answers=JUDGING,
        fit=lambda _, columns, chunks: ImagePreprocessing.fit(columns, chunks),
        build=lambda config, images, size: Cnn(config, images.shape[0], size),
    ),
    "gpt": Architecture(
        configuration=GptConfig,
        reads=Reading.TOKENS,
        answers=("tokens",),
        fit=lambda config, columns, chunks: _fit_tokens(TokenForm.LANGUAGE_MODEL, config, columns, chunks),
        build=lambda config, tokens, size: Gpt(config, size, tokens.width),
    ),
}
"""Every built-in architecture, by its name in a spec."""


def _fit_tokens(
    form: TokenForm, config: TextTransformerConfig | GptConfig, columns: Sequence[Column], chunks: Chunks
) -> TokenPreprocessing:
    return TokenPreprocessing.fit(
        columns,
        chunks,
        form=form,
        context_length=config.context_length,
        max_vocabulary=config.max_vocabulary,
    )
