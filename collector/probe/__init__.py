"""Results of agents: what they measured with probes, checked, taken once, named, and handed to the store."""
