"""What is made of results: measures, intervals, findings in plain words, pages, pictures, comparisons, gates."""
