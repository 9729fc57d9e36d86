"""From evidence to certificate to verdict; the same functions recompute both during verification."""
