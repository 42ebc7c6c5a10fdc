"""Placeholder docstring: replaced by its builder."""
