"""Mitigation: what is done about findings while a run trains.

Lives here: repairs and what they change (`repairs.py`), snapshots to go back to, the rule that skips spikes on the
device, which remedy answers which finding, the trial that every remedy has to pass, and the `Mitigator` that the loop
consults. Not here: detectors (`gradsight_insight`), what is measured (`telemetry.py`), events' way out. Read
`mitigator.py` first, then `remedies.py` and `trials.py`.
"""
