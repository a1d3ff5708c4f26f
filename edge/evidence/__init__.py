"""What a person needs to see of a verdict: kept in a byte budget, read by the report and by the desk."""
