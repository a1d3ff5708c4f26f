"""The signed model: nothing of it is loaded before all of it is verified."""
