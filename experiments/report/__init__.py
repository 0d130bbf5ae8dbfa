"""From records to tables, figures and the README's results."""
