"""From text to windows."""
