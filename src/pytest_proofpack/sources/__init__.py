"""Where models and data sets come from: the only code that opens a socket."""
