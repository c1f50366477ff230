"""The LLM that writes problems and solutions: requests, journal, money, and a server on this machine."""
