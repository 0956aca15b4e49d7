"""What a bundle is worth: questions with known answers, asked, judged and set beside controls."""
