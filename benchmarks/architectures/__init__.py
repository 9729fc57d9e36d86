"""Every decoder that transformers can build, small: classed, edited and restored, beside what a person expects."""
