"""Verbs of `edge-train`, one module each: its options, and what it prints."""
