"""The report: one HTML page that shows where a submission fails. `python -m debug.report --help`."""
