"""From files to batches: read and check rows, put each on its side, encode them, fetch them step by step.

Read `rows.py` first (what rows are), then `reading.py` (files to rows), `splits.py` (which row is on which side, and
why it stays there), `encoding.py` (rows to tensors) and `batches.py` (which rows a step sees). Whatever does not fit
into memory lies in mapped files in the attempt's scratch directory. What columns mean to a model is
`gradsight_models`' business.
"""
