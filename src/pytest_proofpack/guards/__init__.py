"""Guards: pure functions of a baseline measurement, a subject measurement and a policy."""
