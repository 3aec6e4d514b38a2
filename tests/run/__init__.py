"""Tests of model.run."""
