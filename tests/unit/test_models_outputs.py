"""What targets become, and what scores mean."""

import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsight_models import (
    ClassOutputs,
    LabelOutputs,
    NumberOutputs,
    Outputs,
    TokenOutputs,
    UnknownLabel,
    outputs_from_json,
)


def objects(*cells: object) -> npt.NDArray[np.object_]:
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


def test_classes_are_sorted_and_numbered_over_all_chunks() -> None:
    outputs = ClassOutputs.fit([objects("b", "a"), objects("c", "a")])
    assert outputs.names == ("a", "b", "c")
    assert outputs.encode(objects("c", "a", "b")).tolist() == [2, 0, 1]
    assert outputs.encode(objects()).shape == (0,)


def test_a_class_has_one_name_whatever_the_file_calls_its_number() -> None:
    outputs = ClassOutputs.fit([np.array([3.0, 1.0]), np.array([3, 1], dtype=np.uint8), objects("3", "1")])
    assert outputs.names == ("1", "3")
    assert outputs.encode(np.array([3, 1], dtype=np.int32)).tolist() == [1, 0]


def test_an_unknown_class_names_its_row() -> None:
    with pytest.raises(UnknownLabel, match="row 2: got 'b', allowed: the 1 names known"):
        ClassOutputs(names=("a",)).encode(objects("a", "b"))


def test_labels_come_as_tuples_or_with_a_separator() -> None:
    tuples = LabelOutputs.fit([np.fromiter([("red", "new"), ()], dtype=object)])
    texts = LabelOutputs.fit([objects("red; new", "")], separator=";")
    assert tuples.names == texts.names == ("new", "red")
    expected = [[1.0, 1.0], [0.0, 0.0]]
    assert tuples.encode(np.fromiter([("red", "new"), ()], dtype=object)).tolist() == expected
    assert texts.encode(objects("red; new", "")).tolist() == expected


@pytest.mark.parametrize(
    "targets", [objects("0", "1"), objects("False", "true"), np.array([0.0, 1.0]), np.array([False, True])]
)
def test_zero_and_one_are_one_label_named_after_the_column(targets: npt.NDArray[np.object_]) -> None:
    outputs = LabelOutputs.fit([targets], name="returned")
    assert outputs.names == ("returned",)
    assert outputs.encode(targets).tolist() == [[0.0], [1.0]]


def test_texts_that_are_not_all_zero_and_one_are_labels() -> None:
    outputs = LabelOutputs.fit([objects("1|0", "1"), objects("0|2")])
    assert outputs.names == ("0", "1", "2")


def test_an_unknown_label_and_an_unclear_yes_name_their_rows() -> None:
    with pytest.raises(UnknownLabel, match="row 2: got 'blue'"):
        LabelOutputs(names=("red",)).encode(objects("red", "red|blue"))
    with pytest.raises(ValueError, match="row 2: got 'perhaps', allowed: 0 or 1"):
        LabelOutputs(names=("x",), yes_or_no=True).encode(objects("1", "perhaps"))


def test_numbers_are_learnt_in_deviations_and_answered_in_units() -> None:
    prices = np.array([10.0, 20.0, 30.0])
    outputs = NumberOutputs.fit([prices[:2], prices[2:]], ["price"])
    encoded = outputs.encode(prices)
    assert encoded.shape == (3, 1)
    assert encoded.dtype == torch.float32
    assert encoded.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert outputs.decode(encoded)[:, 0].tolist() == pytest.approx(prices.tolist(), rel=1e-6)


def test_a_constant_number_is_learnt_as_its_mean() -> None:
    outputs = NumberOutputs.fit([np.full(5, 7.1)], ["x"])
    assert outputs.deviation == (1.0,)
    assert outputs.encode(np.array([7.1, 8.1]))[:, 0].tolist() == pytest.approx([0.0, 1.0])


def test_several_numbers_of_one_column_are_named_by_place() -> None:
    outputs = NumberOutputs.fit([np.array([[1.0, 5.0], [3.0, 9.0]])], ["xy"])
    assert outputs.names == ("xy[0]", "xy[1]")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_that_is_no_finite_number_names_its_row(bad: float) -> None:
    with pytest.raises(ValueError, match=r"row 3: got .*, allowed: finite numbers"):
        NumberOutputs.fit([np.array([1.0, 2.0]), np.array([bad])], ["x"])


@pytest.mark.parametrize(
    "outputs",
    [
        ClassOutputs(names=("a", "b")),
        LabelOutputs(names=("a", "ü"), separator=";"),
        LabelOutputs(names=("x",), yes_or_no=True),
        NumberOutputs(names=("x",), mean=(0.1,), deviation=(3.0,)),
        TokenOutputs(300),
    ],
)
def test_outputs_survive_json(outputs: Outputs) -> None:
    assert outputs_from_json(json.loads(json.dumps(outputs.to_json()))) == outputs


def test_an_unknown_kind_of_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="got kind 'colours', allowed: classes"):
        outputs_from_json({"kind": "colours"})


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=50), st.integers(1, 7))
def test_chunks_do_not_change_mean_and_deviation(values: list[float], size: int) -> None:
    whole = np.array(values)
    chunked = NumberOutputs.fit([whole[i : i + size] for i in range(0, len(whole), size)], ["x"])
    scale = max(float(np.abs(whole).max()), 1e-300)
    assert chunked.mean[0] == pytest.approx(float(whole.mean()), rel=1e-9, abs=1e-12 * scale)
    if chunked.deviation[0] != 1.0:
        assert chunked.deviation[0] == pytest.approx(float(whole.std()), rel=1e-6, abs=1e-11 * scale)
