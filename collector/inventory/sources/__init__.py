"""The sources of the inventory: who says which VM is where."""
