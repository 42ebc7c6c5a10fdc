"""What the JSON documents of a result stand for."""

from collections.abc import Callable, Mapping
from typing import Any

from gradsight_models.builtin_source import BuiltinSource
from gradsight_models.image_preprocessing import ImagePreprocessing
from gradsight_models.ngram_preprocessing import NgramPreprocessing
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.recipes import RecipeSource
from gradsight_models.source import ModelSource
from gradsight_models.table_preprocessing import TablePreprocessing
from gradsight_models.tensor_preprocessing import TensorPreprocessing
from gradsight_models.token_preprocessing import TokenPreprocessing

_PREPROCESSINGS: Mapping[str, Callable[[Mapping[str, Any]], Preprocessing]] = {
    "table": TablePreprocessing.from_json,
    "ngrams": NgramPreprocessing.from_json,
    "tokens": TokenPreprocessing.from_json,
    "images": ImagePreprocessing.from_json,
    "tensors": TensorPreprocessing.from_json,
}


def preprocessing_from_json(document: Mapping[str, Any], source: ModelSource | None = None) -> Preprocessing:
    """Read what `Preprocessing.to_json` wrote; raises ValueError for an unknown kind.

    `source` reads the kind `recipe`, a recipe's own.
    """
    kind = str(document.get("kind"))
    if kind == "recipe" and isinstance(source, RecipeSource):
        return source.read_preprocessing(document)
    if kind not in _PREPROCESSINGS:
        raise ValueError(f"preprocessing: got kind {kind!r}, allowed: {', '.join(_PREPROCESSINGS)}")
    return _PREPROCESSINGS[kind](document)


def source_from_json(document: Mapping[str, Any], files: Mapping[str, bytes]) -> ModelSource:
    """Read what `ModelSource.to_json` wrote; raises ValueError for an unknown kind.

    `files` are the further files of the result by name, as `ModelSource.files` gave them.
    """
    match document.get("kind"):
        case "builtin":
            return BuiltinSource.from_json(document, files)
        case "program":
            # Imported where needed: a result of a built-in loads without the reader of programs.
            from gradsight_models.program import ProgramSource

            return ProgramSource.from_json(document, files)
        case "recipe":
            return RecipeSource(document["name"], document["options"], files)
        case other:
            raise ValueError(f"source: got kind {other!r}, allowed: builtin, program, recipe")
