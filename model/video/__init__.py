"""Video: reading, views, networks, the detector."""
