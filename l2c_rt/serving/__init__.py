"""Many requests at different steps, batched where their evaluations are of one kind."""
