"""The detectors as ONNX graphs, for other runtimes: `python -m model.export`."""
