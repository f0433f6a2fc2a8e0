"""The program at the terminal: command line, progress, exit status."""
