"""Everything a person looks at: pages, cards, plots, tables."""
