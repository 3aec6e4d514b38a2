"""Rows in and rows out: the challenge's dataset, and the result file."""
