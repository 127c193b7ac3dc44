"""Models without a hand-written adapter: their own forward runs on a structural copy of them."""
