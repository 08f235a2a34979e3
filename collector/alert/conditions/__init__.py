"""The conditions of rules, one a file."""
