"""Other people's packages, each imported only by the module that is named after it."""
