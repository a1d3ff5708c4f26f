"""Learning: simulated and labelled scans in, checkpoints out. Never imported by the line itself."""
