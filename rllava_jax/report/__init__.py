"""Pages for people: a run's report and a comparison's, and the tables, plots and examples that they are made of."""
