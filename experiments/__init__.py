"""One folder per experiment: its data, its figures, its presets. No models, samplers or metrics live here."""
