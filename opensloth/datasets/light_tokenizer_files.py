"""Which files of a model's folder its tokenizer is."""

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
