"""The process itself: what it may reach, its start, its end."""
