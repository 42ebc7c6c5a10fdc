"""Detectors, one family a module: first what there is to say of each kind, then the rule, then small helpers."""
