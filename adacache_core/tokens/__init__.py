"""Token refresh (ToCa, arXiv 2410.05317): a step that would be skipped computes a part of the tokens."""
