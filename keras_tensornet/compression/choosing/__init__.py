"""Which format and ranks each layer gets: rules, budgets and trial decompositions."""
