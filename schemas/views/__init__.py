"""The views that people, alerts and the web page read."""
