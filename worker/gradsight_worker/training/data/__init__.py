"""From files to batches: read and check rows, put each on its side, fetch them step by step.

Read `reading.py` first (files to columns), then `splits.py` (which row is on which side, and why it stays there), then
`batches.py` (which rows a step sees). What columns mean to a model is `gradsight_models`' business.
"""
