"""OneRoster 1.1 and 1.2 as a provider: what other systems read of the institution, by the rules of 1EdTech."""
