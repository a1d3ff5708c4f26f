"""The running line: its parts, threads, supervision, health, alarms, and the check of an installation."""
