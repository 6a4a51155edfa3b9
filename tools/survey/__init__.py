"""The survey: names of networks in, one row of measured facts a network out, and the tables made of them."""
