"""Many slides: which ones, what became of each, where they are computed, and the pages about all of them."""
