"""`pylayers bench`: what each loss layer costs beside its built-in twin."""
