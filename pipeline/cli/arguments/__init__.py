"""What is typed: how help shows it, and defaults that are kept in a file."""
