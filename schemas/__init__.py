"""What a row is: every table and column once.  Imports nothing of ours."""
