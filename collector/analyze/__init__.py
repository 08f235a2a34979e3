"""Windows that close, what is computed once per window, and what is wrong with exporters."""
