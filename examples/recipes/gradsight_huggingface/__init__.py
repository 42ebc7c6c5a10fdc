"""Recipes around Hugging Face's transformers. Read `recipe.py` first."""
