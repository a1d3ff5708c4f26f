"""First weights for the classifier from simulated scans alone: for plants that have none from elsewhere.

`marked_scans` draws scans that know where their anomalies lie; `backbone` is taught by them.
"""
