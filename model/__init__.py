"""Tells AI-generated video from real video; see README.md."""
