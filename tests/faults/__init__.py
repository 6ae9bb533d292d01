"""Seeded mutations of every kind of file that the commands read: whatever a file holds, no command ends in a traceback.

`python -m tests.faults` tries thousands; `test_faults.py` tries some of each kind. A trial is named by its kind and its
number, from which the change follows, so that any of them can be made again.
"""
