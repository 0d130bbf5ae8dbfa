"""Files in and out: a mixture that a YAML file describes, the arrays that it names, and results."""
