"""The process that holds one base model and answers for it and its adapters."""
