"""Measurements of a loaded model that the guards compare."""
