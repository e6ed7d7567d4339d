"""One resource a file; each module offers `router`."""
