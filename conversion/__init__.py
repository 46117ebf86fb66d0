"""Converting PyTorch checkpoints to priors."""
