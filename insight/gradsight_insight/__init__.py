"""Statistics of a run: what its vectors and curves say, and with how much certainty.

Read `evaluation.py` first (held-out error, by category), then `measures.py` (F1, RMSE, perplexity), `priors.py` (what
no model would cost), `comparison.py` (old and new model on the same rows, by `mcnemar.py`), `gain.py` (did the updates
do what they promised?) and `history.py` (curves without superseded points).

What watches a run: `signals.py` (what was measured), `kinds.py` (what there is to say of a failure mode), `detectors/`
(one family a module, pure functions), `catalogue.py` (all of them), `attribution.py` (first cause and consequences),
`findings.py` (their identity, beginning and end) and `monitor.py`, which holds it together.

Functions of plain numbers and numpy arrays: no torch, store, gRPC or file here, and no clock.
Importing the package or `history`, `gain` imports no numpy, so that light clients can use them too.
"""
