"""The commands of `vmflow`: one file each, and what they share."""
