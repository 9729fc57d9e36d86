"""The only code that knows pytest and pytest-xdist."""
