"""Which worker gets which item next: pure policy."""
