"""The librarian: verbs that change which models exist, and what they take."""
