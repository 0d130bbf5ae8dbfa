"""Split Gibbs against exact posteriors."""
