"""What the API and the workers agree on: schema, states, records, store and queue. No tensors here."""

VERSION = "0.1.0"
"""Of the whole product; a test holds it equal to the project's."""
