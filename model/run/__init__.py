"""The run: isolation of every file, batches, scores."""
