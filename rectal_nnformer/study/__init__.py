"""The study: several recipes on the folds of one dataset, from the plan to the page that compares them."""
