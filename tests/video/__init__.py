"""Tests of model.video."""
