"""Features: record, copy and inject what a layer computes, by module name."""
