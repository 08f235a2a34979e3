"""A real Neutron server for tests: Debian's, with a database of its own and no agents."""
