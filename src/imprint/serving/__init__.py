"""Many tenants, one model, a stream of tokens."""
