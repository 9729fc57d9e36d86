"""What is to be certified: suites, scenarios, edit specifications, pins."""
