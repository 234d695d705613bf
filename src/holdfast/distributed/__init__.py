"""One run on several processes: what they tell each other, and who does what."""
