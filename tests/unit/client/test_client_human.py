"""Specs as people write them: read exactly, written back exactly, refused helpfully."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradsight
from gradsight._human import human_path, mapping_from_spec, spec_from_mapping
from gradsight._plain import format_duration, parse_duration, plain

HERE = Path("/data")
names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=8)
fractions = st.floats(0, 1, allow_nan=False)
positive = st.integers(1, 2**31 - 1)
durations = st.integers(1, 30 * 86_400 * 10**9).map(format_duration)
sources = st.one_of(
    names.map(lambda name: f"/data/{name}.csv"),
    st.just("sha256:" + "ab" * 32),
    st.just("s3://bucket/rows.csv"),
    st.fixed_dictionaries(
        {"path": names.map(lambda name: f"/data/{name}"), "format": st.sampled_from(["csv", "jsonl"])}
    ),
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with one of these fields at least: an empty section and an absent one read alike only at the top."""
    return st.fixed_dictionaries({}, optional=fields).filter(bool)


specs = some(
    name=names,
    labels=st.dictionaries(names, names, min_size=1, max_size=3),
    queue=names,
    priority=st.integers(-100, 100).filter(bool),
    model=st.one_of(
        st.sampled_from(["mlp", "text_classifier", "gpt"]),
        some(
            hidden_sizes=st.lists(positive, min_size=1, max_size=3),
            activation=st.just("gelu"),
            dropout=fractions,
        ).map(lambda options: {"mlp": options}),
        st.just({"recipe": {"name": "ours", "options": {"depth": "3"}}}),
    ),
    data=some(
        train=sources,
        test=sources,
        split=some(validation_fraction=fractions, seed=st.integers(0, 2**63 - 1)),
        inputs=st.lists(names, min_size=1, max_size=3),
        target=names,
        category=names,
        id=names,
        batch_size=positive,
    ),
    objective=st.one_of(st.just("cross_entropy"), st.just({"cross_entropy": {"label_smoothing": 0.1}})),
    optimizer=st.one_of(
        st.sampled_from(["sgd", "adamw"]),
        some(learning_rate=fractions, weight_decay=fractions, clipping_disabled=st.just(True)),
        st.just({"sgd": {"momentum": 0.9, "nesterov": True}, "learning_rate": 0.1}),
        st.just({"sgd": {}, "learning_rate": 0.1}),
    ),
    schedule=st.one_of(
        st.sampled_from(["constant", "cosine"]), st.just({"constant": {}, "warmup_fraction": 0.1})
    ),
    budget=st.one_of(some(epochs=positive, timeout=durations), some(steps=positive)),
    evaluation=some(
        baseline=names,
        category_impacts=st.dictionaries(names, fractions, min_size=1),
        interval_steps=positive,
    ),
    monitoring=some(
        policy=st.sampled_from(["advise", "repair", "stop"]),
        probe_interval_steps=positive,
        detectors=st.dictionaries(
            names,
            st.one_of(
                st.just("disabled"),
                some(thresholds=st.dictionaries(names, fractions, min_size=1, max_size=2)),
                st.just({"disabled": True, "thresholds": {"rises": 4.0}}),
            ),
            min_size=1,
            max_size=3,
        ),
        allow_recipe_changes=st.just(True),
    ),
    checkpoint=some(interval=durations, keep=positive),
    resources=some(device_class=st.sampled_from(["cpu", "cuda"]), threads=positive),
    seed=st.integers(0, 2**63 - 1),
)


@given(specs)
def test_a_spec_reads_back_as_it_was_written(spec: dict[str, Any]) -> None:
    message = spec_from_mapping(spec, HERE)
    assert mapping_from_spec(message) == spec
    assert spec_from_mapping(mapping_from_spec(message), HERE) == message


@pytest.mark.parametrize(
    ("path", "human"),
    [
        ("seed", "seed"),
        ("optimizer.learning_rate", "optimizer.learning_rate"),
        ("data.target_column", "data.target"),
        ("data.train.artifact", "data.train"),
        ("data.train.format", "data.train.format"),
        ("model.builtin.text_classifier.dropout", "model.text_classifier.dropout"),
        ("evaluation.baseline_job_id", "evaluation.baseline"),
        ('labels["a.b"]', 'labels["a.b"]'),
        ("of.a.newer.service", "of.a.newer.service"),
        ("", ""),
    ],
)
def test_a_field_has_the_name_that_people_write(path: str, human: str) -> None:
    assert human_path(path) == human


@given(specs)
def test_json_and_yaml_carry_a_spec_without_loss(spec: dict[str, Any]) -> None:
    from gradsight._yaml import dump, load

    assert json.loads(json.dumps(spec)) == spec
    assert load(dump(spec)) == spec


@given(st.integers(0, 10**18))
def test_durations_read_back_exactly(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h30m", 5400), ("45s", 45), ("0.5s", 0.5), ("250ms", 0.25), ("2d", 172800)],
)
def test_durations_are_what_people_mean(text: str, seconds: float) -> None:
    assert parse_duration(text) / 1e9 == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1h 30m", "-5s", "1h30", "five"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 45s, 30m, 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"modle": "mlp"}, "modle", "did you mean model?"),
        ({"data": {"trian": "x"}}, "data.trian", "did you mean train?"),
        ({"data": {"target_column": "x"}}, "data.target_column", "no such field"),
        ({"model": "txt_classifier"}, "model", "did you mean text_classifier?"),
        ({"model": {"mlp": {}, "gpt": {}}}, "model.gpt", "got both mlp and gpt"),
        ({"budget": {"epochs": 1, "steps": 2}}, "budget.steps", "got both epochs and steps"),
        (
            {"budget": {"timeout": 30}},
            "budget.timeout",
            "got 30, allowed: a duration such as 45s, 30m or 1h30m",
        ),
        ({"data": {"batch_size": "64"}}, "data.batch_size", "got '64', allowed: a number"),
        ({"data": {"batch_size": 1.5}}, "data.batch_size", "got 1.5, allowed: a whole number"),
        ({"data": {"batch_size": 2**31}}, "data.batch_size", "below 2^31"),
        ({"data": {"batch_size": True}}, "data.batch_size", "got True, allowed: a number"),
        ({"data": {"train": 5}}, "data.train", "got 5, allowed: the path of a file"),
        ({"data": {"text": "a", "inputs": ["b"]}}, "data.text", "got both text and inputs"),
        ({"data": "rows.csv"}, "data", "allowed: a mapping with train"),
        ({"labels": {"week": 42}}, "labels[week]", "got 42, allowed: text"),
        ({"labels": ["a"]}, "labels", "allowed: a mapping of names to values"),
        ({"monitoring": {"policy": "advice"}}, "monitoring.policy", "did you mean advise?"),
        ({"monitoring": {"detector": {}}}, "monitoring.detector", "did you mean detectors?"),
        ({"monitoring": {"detectors": ["plateau"]}}, "monitoring.detectors", "a mapping of names to values"),
        (
            {"monitoring": {"detectors": {"plateau": "off"}}},
            "monitoring.detectors[plateau]",
            "got 'off', allowed: disabled",
        ),
        (
            {"monitoring": {"detectors": {"plateau": {"treshold": {"window": 5}}}}},
            "monitoring.detectors[plateau].treshold",
            "did you mean thresholds?",
        ),
        (
            {"monitoring": {"detectors": {"plateau": {"thresholds": {"window": "5"}}}}},
            "monitoring.detectors[plateau].thresholds[window]",
            "got '5', allowed: a number",
        ),
        ({"optimizer": {"sgd": {"nesterov": "yes"}}}, "optimizer.sgd.nesterov", "allowed: true or false"),
        ({"model": {"mlp": {"hidden_sizes": 64}}}, "model.mlp.hidden_sizes", "got 64, allowed: a list"),
        ({"seed": float("nan")}, "seed", "allowed: a whole number"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_got_and_what_is_allowed(
    spec: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(gradsight.InvalidSpec) as caught:
        gradsight.JobSpec(spec)
    assert field in [violation.field for violation in caught.value.fields]
    assert message in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(gradsight.InvalidSpec) as caught:
        gradsight.JobSpec({"modle": 1, "seed": "x", "data": {"batch_size": []}})
    assert [violation.field for violation in caught.value.fields] == ["modle", "seed", "data.batch_size"]


def test_keyword_arguments_win_over_a_mapping_and_join_its_sections() -> None:
    spec = gradsight.JobSpec(
        {
            "optimizer": "sgd",
            "budget": {"steps": 10, "timeout": "1h"},
            "data": {"inputs": ["a"], "target": "b"},
        },
        learning_rate=0.5,
        epochs=3,
        text="message",
        impacts={"returns": 3},
    )
    assert spec["optimizer"] == {"sgd": {}, "learning_rate": 0.5}
    assert spec["budget"] == {"epochs": 3, "timeout": "1h"}
    assert spec["data"] == {"inputs": ["message"], "target": "b"}
    assert spec["evaluation"] == {"category_impacts": {"returns": 3.0}}


def test_a_spec_cannot_be_changed_through_what_it_gives_out() -> None:
    spec = gradsight.JobSpec(model="mlp", inputs=["a"])
    spec["data"]["inputs"].append("b")
    assert spec["data"]["inputs"] == ["a"]
    assert not hasattr(spec, "__setitem__")


def test_paths_in_a_file_begin_at_the_file_and_those_in_arguments_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = tmp_path / "specs", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    (folder / "job.yaml").write_text("data:\n  train: rows.csv\n  validation: other.csv\n  target: y\n")
    monkeypatch.chdir(here)
    data = gradsight.load_spec(folder / "job.yaml", validation="mine.csv", test="sha256:" + "0" * 64)["data"]
    assert data["train"] == str(folder / "rows.csv")
    assert data["validation"] == str(here / "mine.csv")
    assert data["test"].startswith("sha256:")


def test_yaml_reads_as_people_expect(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "optimizer: {learning_rate: 1e-3}\nlabels: {country: no, week: '42', time: 12:30, day: 2024-01-01}\nqueue:\n"
    )
    spec = gradsight.load_spec(tmp_path / "job.yaml")
    assert spec["optimizer"] == {"learning_rate": 0.001}
    assert spec["labels"] == {"country": "no", "week": "42", "time": "12:30", "day": "2024-01-01"}
    assert "queue" not in spec


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "seed: 1\nseed: 2\n", "a name stands twice"),
        ("a.json", '{"seed": 1, "seed": 2}', "a name stands twice"),
        ("a.json", "{", "cannot be read as a spec"),
        ("a.yaml", "a: [", "cannot be read as a spec"),
        ("a.yaml", "- a\n", "holds list, allowed: a mapping"),
        ("a.yaml", "!!python/object/apply:os.getcwd []\n", "cannot be read as a spec"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(gradsight.InvalidSpec, match=message):
        gradsight.load_spec(tmp_path / name)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(gradsight.InvalidSpec, match=r"/no/job\.yaml cannot be read as a spec: No such file"):
        gradsight.load_spec("/no/job.yaml")


def test_plain_values_are_json_without_loss_of_meaning() -> None:
    series = gradsight.Series(
        metric="loss", layer=None, category=None, steps=(1, 2), values=(0.5, float("nan"))
    )
    form = {"metric": "loss", "layer": None, "category": None, "steps": [1, 2], "values": [0.5, None]}
    assert series.to_dict() == form
    assert json.dumps(plain({"state": gradsight.JobState.RUNNING})) == '{"state": "running"}'
