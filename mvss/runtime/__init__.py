"""What every room stands on: errors, keyed randomness, checkpoints, memory."""
