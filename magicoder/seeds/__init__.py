"""Find seed code: corpora, folders, repositories, and the snippets drawn from them."""
