"""Worked examples, apart from the experiments: mixtures made of real signals that come in wheels, so that truth is known."""
