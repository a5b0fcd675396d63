"""What a card does: one command per question, each writing its JSON as it goes. README.md has the order and the
minutes."""
