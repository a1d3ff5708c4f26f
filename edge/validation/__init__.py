"""What a replay found: labels, metrics, requirements, and the report that shows them."""
