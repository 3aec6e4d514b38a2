"""Tests of model.training."""
