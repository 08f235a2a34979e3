"""The sources of the inventory: where it learns which VM is where."""
