"""Options and settings."""
