"""The review desk: a page where a person looks at what the line could not decide, and answers. Its own process."""
