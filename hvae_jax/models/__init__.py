"""Models: PatchVDVAE and what hierarchical VAEs share."""
