"""Binary and low-bit quantisation schemes: what each rounds, its float reference, and how it becomes an integer network."""
