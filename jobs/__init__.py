"""What the API and the workers agree on: schema, states, records, store and queue. No tensors here."""
