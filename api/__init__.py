"""The room that accepts jobs: HTTP, command line, client and the embedded stack. It imports no torch and no models."""
