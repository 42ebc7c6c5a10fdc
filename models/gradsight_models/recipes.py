"""Recipes: ways to make a model that an operator installs beside the workers.

A recipe is a subclass of `Recipe` that an installed package names as an entry point of the group `gradsight.recipes`;
the entry point's name is the recipe's name in a spec. Importing its module must be cheap: import what is heavy inside
its methods. docs/recipes.md walks through one.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import torch
from torch import nn

from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing

GROUP = "gradsight.recipes"
"""Entry point group."""

OptionValue = str | int | float | bool
Options = Mapping[str, OptionValue]
"""Every option of the recipe by name, in its own type."""

_NAME = re.compile(r"[a-z0-9._-]{1,64}")
_TRUTH = {"true": True, "false": False}


class RecipeRefused(ValueError):
    """A recipe that is not installed, or options that it does not take. `field` is the spec's path to what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a recipe. In a spec its value is text."""

    name: str
    """1 to 64 characters of `a-z 0-9 _`."""
    description: str
    """What it means, and the unit."""
    default: OptionValue | None = None
    """Its type is the option's. None: the spec must say the option, as text unless `kind` says otherwise."""
    kind: type[OptionValue] | None = None
    """Type of a required option; None: the default's, or `str`."""
    choices: tuple[OptionValue, ...] = ()
    """What is allowed; empty: anything of the type, within the bounds."""
    low: float | None = None
    """Smallest number that is allowed."""
    high: float | None = None
    """Largest number that is allowed."""

    @property
    def default_text(self) -> str:
        """The default as a spec would say it; empty when there is none."""
        return "" if self.default is None else _text(self.default)

    def parse(self, text: str) -> OptionValue:
        """The value that a text says. Raises ValueError: what it got, what is allowed."""
        kind = self.kind or (str if self.default is None else type(self.default))
        try:
            value = _TRUTH[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise self._refusal(text, kind) from None
        too_low = self.low is not None and not isinstance(value, str) and not value >= self.low
        too_high = self.high is not None and not isinstance(value, str) and not value <= self.high
        if too_low or too_high or (self.choices and value not in self.choices):
            raise self._refusal(text, kind)
        return value

    def _refusal(self, text: str, kind: type[OptionValue]) -> ValueError:
        if self.choices:
            allowed = ", ".join(map(str, self.choices))
        else:
            allowed = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
            allowed += f", at least {self.low:g}" if self.low is not None else ""
            allowed += f", at most {self.high:g}" if self.high is not None else ""
        return ValueError(f"option {self.name}: got {text!r}, allowed: {allowed}")


class Recipe(ABC):
    """A way to make a model. Made anew for every run, without arguments; it keeps nothing between calls."""

    description: ClassVar[str]
    """What it does, in a sentence."""
    options: ClassVar[Sequence[Option]] = ()
    reads: ClassVar[Reading]
    """Which columns it wants when the spec names none."""
    input_names: ClassVar[tuple[str, ...]] = ()
    """For `Reading.TENSORS`: names of the model's inputs."""

    @abstractmethod
    def fit(self, columns: Sequence[Column], chunks: Chunks, options: Options) -> Preprocessing:
        """Fit the preprocessing on training rows: one of gradsight's own, or one that `read_preprocessing` reads.

        Raises ValueError for columns that the model cannot read.
        """

    @abstractmethod
    def build(
        self, preprocessing: Preprocessing, outputs: Outputs, options: Options, files: Mapping[str, bytes]
    ) -> nn.Module:
        """A fresh model on the processor, initialised from torch's global generator, whatever it starts from.

        `forward(*inputs)` takes `Encoded.inputs` and gives scores as `Outputs` describes them. It is built from `files`
        and the arguments alone, so that a result loads where nothing but the recipe's package is installed. Parameters
        without `requires_grad` stay as they are. Raises ValueError when the model cannot take these inputs or give
        these outputs.
        """

    def files(self, options: Options) -> Mapping[str, bytes]:
        """What `build` needs besides, by name; travels with the result.

        Asked for before anything else of a run: raises ValueError or OSError for options that lead nowhere.
        """
        return {}

    def load_pretrained(self, module: nn.Module, options: Options) -> None:  # noqa: B027  (most have none)
        """Put pretrained weights into a model that `build` made; for training only. Raises ValueError or OSError."""

    def read_preprocessing(self, document: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_json` of the recipe's own preprocessing wrote; its `kind` is `recipe`."""
        raise ValueError(f"preprocessing: got kind {document.get('kind')!r}, which this recipe does not have")


class RecipeSource:
    """A recipe with its options: a `ModelSource`.

    Args:
        name: The recipe's name.
        options: As the spec says them, text by name.
        files: Those that a result brought; None: a run that begins, with pretrained weights where the recipe has them.

    Raises:
        RecipeRefused: It is not installed here, cannot be imported, or does not take these options.
    """

    def __init__(
        self, name: str, options: Mapping[str, str], files: Mapping[str, bytes] | None = None
    ) -> None:
        self._name = name
        self._recipe = find_recipe(name)
        self._options = parse_options(self._recipe, options)
        self._from_result = files is not None
        self._files = self._files_of_run() if files is None else files

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self._name

    @property
    def reads(self) -> Reading:
        """Which columns it wants when the spec names none."""
        return self._recipe.reads

    @property
    def input_names(self) -> tuple[str, ...]:
        """For `Reading.TENSORS`: names of the model's inputs."""
        return self._recipe.input_names

    def fit(self, columns: Sequence[Column], chunks: Chunks) -> Preprocessing:
        """Fit the preprocessing on training rows. Raises ValueError for columns that the model cannot read."""
        return self._recipe.fit(columns, chunks, self._options)

    def build(self, preprocessing: Preprocessing, outputs: Outputs) -> nn.Module:
        """A fresh model on the processor, with its pretrained weights if a run begins. Raises ValueError, OSError."""
        if not self._from_result:
            module = self._recipe.build(preprocessing, outputs, self._options, self.files())
            self._recipe.load_pretrained(module, self._options)
            return module
        # Foreign modules keep more than their state says, tables of positions say: these are never made without memory.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return self._recipe.build(preprocessing, outputs, self._options, self.files())

    @property
    def is_pretrained(self) -> bool:
        """Whether a run begins with weights that were trained before."""
        return type(self._recipe).load_pretrained is not Recipe.load_pretrained

    def to_json(self) -> dict[str, Any]:
        """For `model.json`: the name, and every option as text."""
        texts = {name: _text(value) for name, value in self._options.items()}
        return {"kind": "recipe", "name": self._name, "options": texts}

    def files(self) -> Mapping[str, bytes]:
        """Further files of the result, by name."""
        return self._files

    def read_preprocessing(self, document: Mapping[str, Any]) -> Preprocessing:
        """Read a preprocessing of the kind `recipe`."""
        return self._recipe.read_preprocessing(document)

    def _files_of_run(self) -> Mapping[str, bytes]:
        try:
            return self._recipe.files(self._options)
        except (ValueError, OSError) as error:
            raise RecipeRefused("model.recipe.options", f"recipe {self._name!r}: {error}") from error


def installed_recipes() -> dict[str, EntryPoint]:
    """Entry points by the name of the recipe, nothing imported. Those whose name no spec could say are left out."""
    found = {point.name: point for point in entry_points(group=GROUP) if _NAME.fullmatch(point.name)}
    return dict(sorted(found.items()))


def find_recipe(name: str) -> Recipe:
    """The recipe of a name. Raises RecipeRefused: it is not installed, or cannot be imported."""
    installed = installed_recipes()
    if name not in installed:
        known = ", ".join(installed) or "none: the worker's operator installs recipes as packages"
        raise RecipeRefused("model.recipe.name", f"got {name!r}, installed here: {known}")
    try:
        made = installed[name].load()()
    except Exception as error:  # a foreign module may raise anything
        message = f"recipe {name!r} cannot be used on this worker: {type(error).__name__}: {error}"
        raise RecipeRefused("model.recipe.name", message) from error
    if not isinstance(made, Recipe):
        message = f"recipe {name!r} cannot be used: its entry point names no subclass of {__name__}.Recipe"
        raise RecipeRefused("model.recipe.name", message)
    return made


def parse_options(recipe: Recipe, texts: Mapping[str, str]) -> dict[str, OptionValue]:
    """Every option of a recipe in its own type, defaults filled in. Raises RecipeRefused."""
    known = {option.name: option for option in recipe.options}
    field = "model.recipe.options"
    for name in texts:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise RecipeRefused(field, f"got option {name!r}, the recipe's are: {allowed}")
    values: dict[str, OptionValue] = {}
    for name, option in known.items():
        if name in texts:
            try:
                values[name] = option.parse(texts[name])
            except ValueError as error:
                raise RecipeRefused(field, str(error)) from None
        elif option.default is None:
            raise RecipeRefused(field, f"option {name} is missing and has no default: {option.description}")
        else:
            values[name] = option.default
    return values


def _text(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
