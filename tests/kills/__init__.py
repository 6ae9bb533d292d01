"""Runs of every method that are killed again and again, and end as the run that nobody disturbed, bit for bit.

`python -m tests.kills` tries many chains of kills; `test_kills.py` tries a few.
"""
