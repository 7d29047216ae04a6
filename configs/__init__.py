"""Configs of `ntk-train`: `default.py` has all fields, the others change a few of them."""
