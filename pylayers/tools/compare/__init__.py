"""`pylayers compare`: two nets, or each layer and its built-in twins, held against each other."""
