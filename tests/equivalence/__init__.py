"""Whole training runs beside plain transcriptions of the published loops. README.md says how one is written."""
