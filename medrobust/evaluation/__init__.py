"""Evaluations: what is attacked with what, crafted once and told to whoever listens."""
