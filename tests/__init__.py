"""Tests; `python -m tests` sets up an environment and runs them all."""
