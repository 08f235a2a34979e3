"""Answers of OpenStack APIs, and a small HTTP server that gives them; see README.md."""
