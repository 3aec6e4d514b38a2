"""Tests of model.rows."""
