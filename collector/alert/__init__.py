"""Alerts: rules over closed windows, and the state of what they found."""
