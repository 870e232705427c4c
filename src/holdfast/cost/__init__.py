"""What a session costs behind an API: tokens by price, prompt caches included, and where to cut."""
