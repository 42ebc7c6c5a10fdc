"""Real input: 77 intents of bank customers, with defaults for everything."""

import os
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, Household

from gradsight import DataPrepared, JobState, Split

SHARED = Path(os.environ.get("GRADSIGHT_SHARED") or ROOT.parent / "shared")
ROWS = SHARED / "data" / "banking77"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not ROWS.is_dir(), reason=f"no data set in {ROWS}")
def test_the_text_classifier_is_right_nine_times_out_of_ten_on_banking77(household: Household) -> None:
    with household.client() as client:
        handle = client.submit(
            model="text_classifier",
            train=ROWS / "train.csv",
            test=ROWS / "test.csv",
            text="text",
            target="category",
        )
        job = handle.wait(timeout=280)
        assert job.state is JobState.SUCCEEDED, job.error
        (prepared,) = (event.detail for event in handle.events(kinds=["data_prepared"]))
    assert isinstance(prepared, DataPrepared)
    rows = {side.split: side.rows for side in prepared.splits}
    assert rows[Split.TEST] == 3080
    assert rows[Split.TRAIN] + rows[Split.VALIDATION] == 10003
    assert len(prepared.classes) == 77
    assert job.summary is not None
    assert job.summary.test is not None
    assert job.summary.test.error_ratio is not None
    assert 1 - job.summary.test.error_ratio >= 0.90
