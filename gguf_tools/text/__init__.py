"""From text to token ids: the tokenizer, chat templates, and long texts in chunks."""
