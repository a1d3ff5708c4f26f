"""What people ask of a running line: a report of the shift, tables, everything about one part. Read only."""
