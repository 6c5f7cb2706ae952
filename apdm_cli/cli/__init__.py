"""The command line: one thin file per command, which parses, calls one function and renders."""
