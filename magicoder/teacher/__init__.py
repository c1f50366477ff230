"""The LLM that writes problems and solutions: requests, their journal, a server of our own."""
