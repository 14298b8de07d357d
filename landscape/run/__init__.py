"""The engine that computes the rows of a task, on any number of ranks; it knows neither models nor studies."""
