"""Reproductions of the papers: what the product does not need on the way to a model. Nothing outside imports them."""
