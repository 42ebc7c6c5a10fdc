"""What finds the failure modes: one module per family, texts of its kinds first, then the rule, then small helpers.

Read `contracts.py` for the shape of all of them, `windows.py` for what they share. Detectors are pure functions of
signals: they remember nothing, and look back instead. The catalogue lists them; nothing else knows them by name.
"""
