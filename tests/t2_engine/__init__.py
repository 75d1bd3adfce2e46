"""The engine, driven by a small state machine in Python."""
