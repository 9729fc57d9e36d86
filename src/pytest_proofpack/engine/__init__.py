"""Where one certificate is made."""
