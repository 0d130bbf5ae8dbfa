"""What an observation says of its sources: exact, by moment matching, by Gibbs sweeps, by amortised networks."""
