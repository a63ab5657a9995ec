"""Whether a job's result is better than the model that it was made from, on rows that it was not trained on."""
