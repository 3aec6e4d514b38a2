"""Tools for use at home: the evaluation run again, the metric, reports. script.py needs none of it."""
