"""A local page to drop a file on: `python -m debug.demo`."""
