"""More machines than one: a dataset cut into pieces, scored by a pool of detectors on a Ray cluster.

An optional extra (requirements.txt beside this file); `script.py` needs none of it. Run `python -m model.fleet --help`.
"""
