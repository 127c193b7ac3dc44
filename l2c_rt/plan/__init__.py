"""How a run is done: the model as nodes, the plan as ops, its proof, its launches and its cost."""
