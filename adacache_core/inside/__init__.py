"""How to reach a model's blocks: its layout as a row of data, and what stands in for a forward during one call."""
