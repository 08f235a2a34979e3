"""Alerts: rules, states and messages over a real store."""
