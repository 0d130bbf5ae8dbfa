"""The one loop of all experiments: settings, runs, scores, what is stale, the command line."""
