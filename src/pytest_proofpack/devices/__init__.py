"""Which devices there are, who has them, and what fits on them."""
