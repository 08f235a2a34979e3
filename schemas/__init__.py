"""What a row is: every table and column, defined once.  Imports nothing else of vmflow."""
