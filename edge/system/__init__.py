"""Small contacts with the operating system: signals, systemd, log lines, files that last."""
