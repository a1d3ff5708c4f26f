"""The signed model bundle: nothing of it is loaded before all of it is verified."""
