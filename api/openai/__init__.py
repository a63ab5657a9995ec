"""OpenAI's routes and shapes over the same services: a translation without logic of its own."""
